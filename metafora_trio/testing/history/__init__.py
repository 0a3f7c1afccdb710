"""Histories: a record of every run of every task, and a checker that finds broken promises in it."""

from __future__ import annotations

from ._event_order import EventOrder as EventOrder
from ._history import EventName as EventName
from ._history import History as History
from ._history import HistoryEvent as HistoryEvent
from ._verdict import AFTER_THAW as AFTER_THAW
from ._verdict import Overlap as Overlap
from ._verdict import Run as Run
from ._verdict import Verdict as Verdict
from ._verdict import check_history as check_history
