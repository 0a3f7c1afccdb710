"""TaskState: the recorded state of a task and its errors, with Go Metafora's field names."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Outcome", "StateName", "StopReason", "TaskError", "TaskState"]


class Outcome(enum.Enum):
    """A handler's return value. Returning None means `DONE`."""

    DONE = "done"
    """The task is completed and leaves the cluster."""
    RELEASE = "release"
    """The task is given back. It continues on another node, or here after a while."""


class StopReason(enum.StrEnum):
    """The reason why a task must stop on this node."""

    RELEASED = "released"
    """The balancer or the command stop_task gave the task back."""
    HANDED_OVER = "handed_over"
    DRAINED = "drained"
    DELETED = "deleted"
    CLAIM_LOST = "claim_lost"
    SESSION_LOST = "session_lost"
    SHUTDOWN = "shutdown"


class StateName(enum.StrEnum):
    """The states of a task, with the names of Go Metafora's state machine."""

    RUNNABLE = "runnable"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def terminal(self) -> bool:
        """True if a task in this state has ended."""
        return self in (StateName.COMPLETED, StateName.FAILED, StateName.KILLED)


@dataclass(frozen=True, slots=True)
class TaskError:
    """One failure of a task: its time (UTC), the error in one line, its type, and the traceback as text."""

    timestamp: datetime.datetime
    error: str
    type: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class TaskState:
    """The state record of a task. A task has one from when it is submitted until it is deleted.

    Attributes:
        state: the state.
        errors: the failures so far, oldest first.
    """

    state: StateName = StateName.RUNNABLE
    errors: Sequence[TaskError] = ()

    def encode(self) -> bytes:
        """Encode as JSON: `{"state", "errors": [{"timestamp", "error", "type", "traceback"}]}`."""
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
        """Decode the output of `encode`. Raises `ValueError` if it is not a state record."""
        record = json.loads(encoded)
        if not isinstance(record, dict):
            raise ValueError(f"a state record must be a JSON object, not {type(record).__name__}")
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
