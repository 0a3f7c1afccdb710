"""Evidence: all that a chaos run has left, for those that judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metafora_trio.testing.history import HistoryEvent

from .records import FaultRecord
from .store import Row

__all__ = ["POISON", "SECOND", "Evidence", "is_innocent", "node_of"]

SECOND = 1e9
"""Nanoseconds, the unit of the histories, in a second."""
POISON = "poison-"
"""The beginning of the ids of all tasks that are poison."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records that a run has left.

    Attributes:
        events: the histories of all processes and of the nemesis.
        faults: the faults that were injected.
        rows: the writes that the store got.
        session_timeout: T, in seconds.
        healed: when everything was healed, in nanoseconds of CLOCK_MONOTONIC; None if the run did not get so far.
        surprises: unplanned events, such as a node that ended by itself.
        nodes: the names of the nodes that must share the tasks at the end.
        complete: True if the run was neither interrupted nor failed.
    """

    events: Sequence[HistoryEvent]
    faults: Sequence[FaultRecord]
    rows: Sequence[Row]
    session_timeout: float
    healed: int | None
    surprises: Sequence[str] = ()
    nodes: Sequence[str] = ()
    complete: bool = True


def node_of(process: str) -> str:
    """Return the name of the node that a process belonged to."""
    return process.rpartition(".")[0]


def is_innocent(task: str) -> bool:
    """Return whether a task is an ordinary one, not poison."""
    return not task.startswith(POISON)
