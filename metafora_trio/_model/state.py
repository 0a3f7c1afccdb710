"""What is recorded of a task: its state, and the errors that led there. Go Metafora's field names."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Outcome", "StateName", "StopReason", "TaskError", "TaskState"]


class Outcome(enum.Enum):
    """How a handler ended: returning None is `DONE`."""

    DONE = "done"
    """The task is completed and gone."""
    RELEASE = "release"
    """The task goes on elsewhere, or here after a while."""


class StopReason(enum.StrEnum):
    """Why a task must stop here."""

    RELEASED = "released"
    """The handler or the balancer gave it back, or the command stop_task did."""
    HANDED_OVER = "handed_over"
    DRAINED = "drained"
    DELETED = "deleted"
    CLAIM_LOST = "claim_lost"
    SESSION_LOST = "session_lost"
    SHUTDOWN = "shutdown"


class StateName(enum.StrEnum):
    """The states of a task (the names of Go Metafora's state machine)."""

    RUNNABLE = "runnable"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def terminal(self) -> bool:
        """Whether a task in this state has ended."""
        return self in (StateName.COMPLETED, StateName.FAILED, StateName.KILLED)


@dataclass(frozen=True, slots=True)
class TaskError:
    """One failure of a task: when (UTC), the error in one line, its type, and the traceback as text."""

    timestamp: datetime.datetime
    error: str
    type: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class TaskState:
    """The state record of a task. Every task has one from its submission until its delete.

    Attributes:
        state: the state.
        errors: the failures so far, oldest first.
    """

    state: StateName = StateName.RUNNABLE
    errors: Sequence[TaskError] = ()

    def encode(self) -> bytes:
        """As JSON: `{"state", "errors": [{"timestamp", "error", "type", "traceback"}]}`."""
        record: dict[str, Any] = {"state": self.state.value}
        if self.errors:
            record["errors"] = [
                {
                    "timestamp": error.timestamp.isoformat(),
                    "error": error.error,
                    **({"type": error.type} if error.type else {}),
                    **({"traceback": error.traceback} if error.traceback else {}),
                }
                for error in self.errors
            ]
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> TaskState:
        """The record that `encode` wrote. Raises `ValueError` when it is not one."""
        record = json.loads(encoded)
        if not isinstance(record, dict):
            raise ValueError(f"a state record is a JSON object, not {type(record).__name__}")
        return cls(
            state=StateName(record.get("state", "runnable")),
            errors=tuple(
                TaskError(
                    timestamp=datetime.datetime.fromisoformat(error["timestamp"]),
                    error=error["error"],
                    type=error.get("type", ""),
                    traceback=error.get("traceback", ""),
                )
                for error in record.get("errors") or ()
            ),
        )
