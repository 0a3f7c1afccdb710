"""The runs of handlers in a simulated cluster, and the places where they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from metafora_trio._running_task import TaskLease

__all__ = ["Place", "WatchedRun"]


class Place(Protocol):
    """The place where a node or a client runs: a `Process`, or a part of one.

    Attributes:
        name: for people.
        frozen: whether it is stopped, to be resumed later.
        dead: whether it was killed.
        ended: whether its function has returned.
        rate: how fast its clock runs.
        time: the time on its clock, in seconds; `trio.current_time()` returns the same there.
    """

    @property
    def name(self) -> str: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def dead(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def rate(self) -> float: ...
    @property
    def time(self) -> float: ...

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run a plain function there: at once; if it is frozen, once it resumes; if it is dead, never."""


@dataclass(eq=False, slots=True)
class WatchedRun:
    """One run of a handler.

    Attributes:
        task: the task's id.
        node: the identity of the session.
        token: the fencing token.
        place: where it runs.
        end: set to make the default handler end; it raises if `fails` is set.
        ended: whether the handler ended by itself: it returned, or raised before it was told to stop.
        exempt_until: the time until which the run does not count, because its process has just gone on after a stop.
        ignored: the lease that it may outlive on purpose.
        parts: how many Trio tasks of it are still to end: the handler, and its children.
    """

    task: str
    node: str
    token: int
    place: Place
    end: trio.Event
    fails: bool = False
    ended: bool = False
    exempt_until: float = -1.0
    ignored: TaskLease | None = None
    parts: int = 1

    @property
    def overran(self) -> bool:
        """True once it has outlived its lease on purpose, which breaks an assumption."""
        return self.ignored is not None and self.place.time >= self.ignored.end

    def __str__(self) -> str:
        return f"{self.task} on {self.node} with token {self.token}"
