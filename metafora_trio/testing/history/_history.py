"""Histories: what really ran, when and where.

Every process writes what its handlers do, as it happens, and who disturbs the cluster writes what it does.
Afterwards `check_history` (`_verdict.py`) reads all of it and looks for broken promises. Times are CLOCK_MONOTONIC in
nanoseconds, so all the processes of one history run on one host.

The format is one JSON object a line, appended by one `write` each, so that processes may share a file:
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
    """What can happen. The first two are written by the process that runs the task, the rest by others."""

    START = "start"
    """A handler started."""
    STOP = "stop"
    """A handler's scope closed, for whatever reason."""
    SUBMIT = "submit"
    """A submit was acknowledged."""
    DONE = "done"
    """A client has seen that the task ended (not: its handler returned; a lost session may still run it again)."""
    DELETE = "delete"
    """A delete was acknowledged. The task may run on until its owner has seen it."""
    KILL = "kill"
    """A process has died; written after it was waited for."""
    FREEZE = "freeze"
    """A process was stopped; written after the SIGSTOP."""
    RESUME = "resume"
    """A process is sent SIGCONT; written just before. For those whose processes note the thaw by themselves."""
    THAW = "thaw"
    """A process goes on; written before the SIGCONT, or by itself, first thing in its handler of that signal."""
    END = "end"
    """The observation is over. What comes later, such as the stops of an orderly end, does not count."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """Something that happened.

    Attributes:
        t: when, in nanoseconds of CLOCK_MONOTONIC.
        ev: what.
        process: whose doing it was, or who is killed, frozen or thawed.
        node: the identity of the session that owned the task.
        task: the task's id.
        token: the fencing token.
        ended: of a stop: the handler returned or raised, rather than being cancelled.
    """

    t: int
    ev: EventName
    process: str = ""
    node: str = ""
    task: str = ""
    token: int = 0
    ended: bool = False


class History:
    """Records events, in memory or at the end of a file; not both, so that a long run stays small.

    Args:
        path: the file; None for memory (`events`).
        process: what names this process in its events; its pid by default.
        now: the clock. With virtual time, pass one: `lambda: round(trio.current_time() * 1e9)`.
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
        """All events of some files, one file after the other."""
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
        """A handler starts. Call it first thing in the handler."""
        self._add(EventName.START, node=node, task=task, token=token)

    def stop(self, task: str, token: int, node: str, *, ended: bool = False) -> None:
        """A handler stops. Call it last thing, in a `finally`; `ended`: it returns or raises, it is not cancelled."""
        self._add(EventName.STOP, node=node, task=task, token=token, ended=ended)

    def record(self, ev: EventName, *, task: str = "", process: str | None = None) -> None:
        """Anything else; see `EventName` for when to write it."""
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
    ) -> None:
        event = HistoryEvent(self._now(), ev, self.process if process is None else process, node, task, token, ended)
        if self._file is None:
            self.events.append(event)
        else:
            line = json.dumps({key: value for key, value in asdict(event).items() if value or key == "t"})
            os.write(self._file, line.encode() + b"\n")
