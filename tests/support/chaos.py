"""Planted evidence of chaos runs. Times are in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from metafora_trio.testing.history import EventName, HistoryEvent
from stress.chaos.evidence import Evidence
from stress.chaos.faults import FaultKind
from stress.chaos.records import FaultRecord
from stress.chaos.store import Row

S = 1_000_000_000
T = 4.0


def event(t: float, ev: EventName, process: str = "", task: str = "", token: int = 0) -> HistoryEvent:
    return HistoryEvent(round(t * S), ev, process, f"{process}-session" if token else "", task, token)


def start(t: float, task: str, token: int, process: str) -> HistoryEvent:
    return event(t, EventName.START, process, task, token)


def stop(t: float, task: str, token: int, process: str, *, ended: bool = False, reason: str = "") -> HistoryEvent:
    return dataclasses.replace(event(t, EventName.STOP, process, task, token), ended=ended, reason=reason)


def submit(*tasks: str) -> list[HistoryEvent]:
    return [event(0, EventName.SUBMIT, task=task) for task in tasks]


def fault(kind: FaultKind, target: str, begin: float, end: float, *, alone: bool = False) -> FaultRecord:
    return FaultRecord(kind, target, round(begin * S), round(end * S), alone)


CUT = fault(FaultKind.CUT, "n2", 20, 27)
KILL = fault(FaultKind.KILL, "n2", 20, 27, alone=True)
# Task b runs on n2, which is killed; then nowhere for 4.9 s; then on n1, until n2 is back and takes it over.
GOOD = [
    *submit("a", "b"),
    start(1, "a", 1, "n1.1"),
    start(1, "b", 1, "n2.1"),
    event(20, EventName.KILL, "n2.1"),
    start(24.9, "b", 2, "n1.1"),
    stop(30, "b", 2, "n1.1", reason="handed_over"),
    start(30.01, "b", 3, "n2.2"),
    event(45, EventName.END),
]


def evidence(
    events: Sequence[HistoryEvent] = GOOD,
    *,
    faults: Sequence[FaultRecord] = (KILL,),
    rows: Sequence[Row] | None = None,
    healed: float | None = 27,
    complete: bool = True,
    surprises: Sequence[str] = (),
) -> Evidence:
    """Return evidence in which, by default, every run has written to the store."""
    at = None if healed is None else round(healed * S)
    starts = [one for one in events if one.ev is EventName.START]
    written = [Row(one.t, one.task, one.process, one.token, accepted=True) for one in starts]
    return Evidence(events, faults, written if rows is None else rows, T, at, surprises, ("n1", "n2"), complete)
