"""TaskState: the recorded state of a task and its errors, with Go Metafora's field names."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from metafora_trio._errors import InvalidRecord

from .json_record import MAX_DEPTH, JsonRecord, printable, shorten
from .props import encode_props

__all__ = [
    "MAX_ERROR",
    "MAX_STATE_BYTES",
    "MAX_TRACEBACK",
    "Outcome",
    "StateName",
    "StopReason",
    "TaskError",
    "TaskState",
]

MAX_ERROR = 1000
"""The number of characters of an error's line that are stored."""
MAX_TRACEBACK = 16 * 1024
"""The number of characters of a traceback that are stored, from its end."""
MAX_STATE_BYTES = 768 * 1024
"""The largest size of an encoded state: properties of 512 KiB, and 256 KiB for all else. It leaves room for the rest of
the request that stores it: a broker such as ZooKeeper refuses requests above 1 MiB."""
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # made once, for speed
_MAX_ERRORS = 16
_MAX_ERRORS_BYTES = 240 * 1024
_MAX_STORED_BYTES = 1024 * 1024  # the limit for reading, also of records that other programs wrote


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

    Once the task has ended, the record holds what is needed to understand the end and to run the task again. All fields
    but the first two are None before that, and in records that other versions have written.

    Attributes:
        state: the state.
        errors: the failures so far, oldest first.
        props: the task's properties.
        node: the identity of the node's session in which it ended.
        token: its fencing token there.
        started: when its last run started, in UTC; None if it never started.
        ended: when it ended, in UTC.
    """

    state: StateName = StateName.RUNNABLE
    errors: Sequence[TaskError] = ()
    props: Mapping[str, Any] | None = field(default=None, hash=False)
    node: str | None = None
    token: int | None = None
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None

    def encode(self) -> bytes:
        """Encode as JSON of at most `MAX_STATE_BYTES`, so that it always fits into one request.

        `{"state", "errors": [{"timestamp", "error", "type", "traceback"}], "props", "node", "token", "started",
        "ended"}`. The last errors are kept, each with the end of its traceback. Properties that `Task` would refuse are
        left out: a node that ends a task must not fail because of what another program has submitted.
        """
        record: dict[str, Any] = {"state": self.state.value}
        if self.errors:
            record["errors"] = _encode_errors(self.errors)
        if self.node is not None:
            record["node"] = self.node
        if self.token is not None:
            record["token"] = self.token
        if self.started is not None:
            record["started"] = _encode_time(self.started)
        if self.ended is not None:
            record["ended"] = _encode_time(self.ended)
        encoded = _ENCODER.encode(record).encode()
        if self.props is None:
            return encoded
        try:
            return b'%b,"props":%b}' % (encoded[:-1], encode_props(self.props))
        except InvalidRecord:
            return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> TaskState:
        """Decode the output of `encode`.

        Raises:
            InvalidRecord: it is not a state record.
        """
        record = JsonRecord(encoded, max_bytes=_MAX_STORED_BYTES, max_depth=MAX_DEPTH + 1)
        name, props = record.text("state", StateName.RUNNABLE), record.fields("props")
        try:
            state = StateName(name)
        except ValueError:
            raise InvalidRecord(f"state is {shorten(name)}, which is unknown") from None
        return cls(
            state=state,
            errors=tuple(map(_decode_error, record.records("errors"))),
            props=None if props is None else MappingProxyType(props),
            node=record.text("node"),
            token=record.integer("token"),
            started=record.time("started"),
            ended=record.time("ended"),
        )


def _encode_time(time: datetime.datetime) -> str:
    """Write a time with its zone. One without a zone counts as UTC."""
    return (time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)).isoformat()


def _encode_errors(errors: Sequence[TaskError]) -> Sequence[Mapping[str, str]]:
    """Return the last errors that have room together."""
    records: list[Mapping[str, str]] = []
    room = _MAX_ERRORS_BYTES
    for error in reversed(errors[-_MAX_ERRORS:]):
        record = {
            "timestamp": _encode_time(error.timestamp),
            "error": printable(error.error[:MAX_ERROR]),
            **({"type": printable(error.type[:MAX_ERROR])} if error.type else {}),
            **({"traceback": printable(error.traceback[-MAX_TRACEBACK:])} if error.traceback else {}),
        }
        room -= len(json.dumps(record))
        if room < 0:
            break
        records.insert(0, record)
    return records


def _decode_error(record: JsonRecord) -> TaskError:
    timestamp, error = record.time("timestamp"), record.text("error")
    if timestamp is None or error is None:
        raise InvalidRecord("an entry of errors must have a timestamp and an error")
    return TaskError(timestamp, error, record.text("type", ""), record.text("traceback", ""))
