"""What users and authors of coordinators test with.

* `CoordinatorConformance`: the tests that every coordinator passes, to be subclassed; `Subject` is what it tests.
* `History`, `check_history`: what really ran, and whether it kept the promises.
* `World`, `Monitor`: many processes in one thread, on virtual time, and what runs in them held to the promises.
"""

from __future__ import annotations

from ._conformance import CoordinatorConformance as CoordinatorConformance
from ._conformance_tools import Subject as Subject
from ._conformance_tools import eventually as eventually
from ._history import EventName as EventName
from ._history import History as History
from ._history import HistoryEvent as HistoryEvent
from ._monitor import BrokenPromise as BrokenPromise
from ._monitor import Monitor as Monitor
from ._monitor import WatchedRun as WatchedRun
from ._verdict import Overlap as Overlap
from ._verdict import Run as Run
from ._verdict import Verdict as Verdict
from ._verdict import check_history as check_history
from ._world import Process as Process
from ._world import World as World
