"""Histories: a record of every run of every task, when and where.

Every process writes the starts and stops of its handlers as they happen, and the program that disturbs the cluster
writes each kill, freeze and thaw. Afterwards `check_history` (`_verdict.py`) reads all events and looks for broken
promises. Times are CLOCK_MONOTONIC in nanoseconds, so all the processes of one history must run on one host.

The format is one JSON object a line. Each line is appended by one `write`, so processes may share a file:
`{"t": 123, "ev": "start", "process": "4711", "node": "w1.ab12", "task": "t1", "token": 7}`.
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

__all__ = ["EventName", "History", "HistoryEvent"]


class EventName(enum.StrEnum):
    """The kinds of events. The process that runs the task writes START and STOP; other processes write the rest,
    except that a process may write its own THAW."""

    START = "start"
    """A handler started."""
    STOP = "stop"
    """A handler's scope closed, for any reason."""
    SUBMIT = "submit"
    """A submit was acknowledged."""
    DONE = "done"
    """A client has seen that the task ended. A handler that returned is not enough: if its session is lost, the task
    may run again."""
    DELETE = "delete"
    """A delete was acknowledged. The task may keep running until its owner sees the tombstone."""
    KILL = "kill"
    """A process died. Write it after waiting for the process."""
    FREEZE = "freeze"
    """A process was stopped. Write it after the SIGSTOP."""
    RESUME = "resume"
    """A process is about to be sent SIGCONT. Write it just before, if the process writes its own THAW."""
    THAW = "thaw"
    """A process continues. Write it before the SIGCONT, or let the process write it, first thing in its handler of
    that signal."""
    END = "end"
    """The observation is over. Later events, such as the stops of an orderly shutdown, do not count."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of a history.

    Attributes:
        t: the time, in nanoseconds of CLOCK_MONOTONIC.
        ev: the kind of event.
        process: the process that did it, or that was killed, frozen or thawed.
        node: the identity of the session that owned the task.
        task: the task's id.
        token: the fencing token.
        ended: for a stop: True if the handler returned or raised, False if it was cancelled.
        reason: for a stop: the `stop_reason` of the run, or empty.
    """

    t: int
    ev: EventName
    process: str = ""
    node: str = ""
    task: str = ""
    token: int = 0
    ended: bool = False
    reason: str = ""


class History:
    """Records events in memory or appends them to a file; not both, because a long run must not fill the memory.

    Args:
        path: the file, or None to keep the events in memory, in `events`.
        process: the name of this process in its events; its pid by default.
        now: the clock. With virtual time, pass `lambda: round(trio.current_time() * 1e9)`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        process: str | None = None,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.events: list[HistoryEvent] = []
        self.process: str = process or str(os.getpid())
        self._now = now
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @classmethod
    def read(cls, paths: Iterable[str | os.PathLike[str]]) -> list[HistoryEvent]:
        """Return all events of some files, one file after the other."""
        return [
            HistoryEvent(**{**record, "ev": EventName(record["ev"])})
            for path in paths
            for record in map(json.loads, Path(path).read_text().splitlines())
        ]

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> History:
        return self

    def __exit__(self, type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self, task: str, token: int, node: str) -> None:
        """Record that a handler starts. Call it first thing in the handler."""
        self._add(EventName.START, node=node, task=task, token=token)

    def stop(self, task: str, token: int, node: str, *, ended: bool = False, reason: str = "") -> None:
        """Record that a handler stops. Call it last thing in the handler, in a `finally`.

        Args:
            task: the task's id.
            token: the fencing token.
            node: the identity of the session.
            ended: True if the handler returns or raises, False if it is cancelled.
            reason: the `stop_reason` of the run, if it has one.
        """
        self._add(EventName.STOP, node=node, task=task, token=token, ended=ended, reason=reason)

    def record(self, ev: EventName, *, task: str = "", process: str | None = None) -> None:
        """Record any other event. `EventName` says when to record each."""
        self._add(ev, task=task, process=process)

    def _add(
        self,
        ev: EventName,
        *,
        process: str | None = None,
        node: str = "",
        task: str = "",
        token: int = 0,
        ended: bool = False,
        reason: str = "",
    ) -> None:
        by = self.process if process is None else process
        event = HistoryEvent(self._now(), ev, by, node, task, token, ended, reason)
        if self._file is None:
            self.events.append(event)
        else:
            line = json.dumps({key: value for key, value in asdict(event).items() if value or key == "t"})
            os.write(self._file, line.encode() + b"\n")
