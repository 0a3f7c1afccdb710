"""What users and authors of coordinators test with.

* `CoordinatorConformance`: the tests that every coordinator passes, to be subclassed; `Subject` is what it tests.
* `History`, `check_history`: what really ran, and whether it kept the promises.
"""

from __future__ import annotations

from ._conformance import CoordinatorConformance as CoordinatorConformance
from ._conformance_tools import Subject as Subject
from ._conformance_tools import eventually as eventually
from ._history import EventName as EventName
from ._history import History as History
from ._history import HistoryEvent as HistoryEvent
from ._history import Overlap as Overlap
from ._history import Run as Run
from ._history import Verdict as Verdict
from ._history import check_history as check_history
