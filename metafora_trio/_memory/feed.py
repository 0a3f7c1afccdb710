"""Feed: a live view of the store, which follows it over a wire with a delay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from metafora_trio.contract import (
    Changes,
    Claim,
    ClaimAdded,
    ClaimRemoved,
    ClusterView,
    NodeAdded,
    NodeRemoved,
    QueuedCommand,
    RepeatedEvent,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
    ViewEvent,
)

__all__ = ["Feed", "Item", "Request", "Wire"]


T = TypeVar("T")


class Wire(Generic[T]):
    """One direction of a connection: what is put in arrives in order, `latency` seconds later.

    Attributes:
        latency: seconds on the way.
        cut: whether everything is held back, as by a torn network.
    """

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.cut = False
        self._items: deque[tuple[float, T]] = deque()
        self._moved = RepeatedEvent()

    def put(self, item: T) -> None:
        self._items.append((trio.current_time() + self.latency, item))
        self._moved.set()

    def mend(self) -> None:
        self.cut = False
        self._moved.set()

    @property
    def arrived(self) -> bool:
        """Whether something waits to be taken."""
        return not self.cut and bool(self._items) and self._items[0][0] <= trio.current_time()

    def take(self) -> Iterator[T]:
        """Take what has arrived, one by one."""
        while self.arrived:
            yield self._items.popleft()[1]

    def rest(self) -> Iterator[T]:
        """Take everything, also what is still on the way."""
        while self._items:
            yield self._items.popleft()[1]

    async def wait_arrived(self) -> None:
        """Wait until there is something to take. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self.arrived:
            if self.cut or not self._items:
                await self._moved.wait()
            else:
                await trio.sleep_until(self._items[0][0])


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What a session asks of the store, and what is marked until the answer is back.

    Attributes:
        effect: what the store does; it does nothing where the request's condition does not hold.
        task: the task it is about.
        leaving: the claim it is to end; None for a claim or bid, which makes one.
    """

    effect: Callable[[], None]
    task: str | None = None
    leaving: Claim | None = None


Item = ViewEvent | QueuedCommand | Request | ClusterView


class Feed:
    """A live view of the store, and what has changed in it since one last looked."""

    def __init__(self, latency: float) -> None:
        self.view = ClusterView()
        self.inbox: Wire[Item] = Wire(latency)
        self._changes = Changes()
        self._changed = RepeatedEvent()

    async def wait_changed(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._changes:
            await self._changed.wait()

    def take_changes(self) -> Changes:
        changes, self._changes = self._changes, Changes()
        return changes

    async def keep_up(self) -> None:
        """Apply what arrives, for ever."""
        while True:
            await self.inbox.wait_arrived()
            self._catch_up()

    def _catch_up(self) -> None:
        for item in self.inbox.take():
            self._apply(item)
        if self._changes:
            self._changed.set()

    def _apply(self, item: Item) -> None:
        match item:
            case ClusterView():
                self.view = item
                self._changes.everything = True
            case NodeAdded() | NodeRemoved():
                self.view.apply(item)
                self._changes.nodes = True
            case ClaimAdded(claim) | ClaimRemoved(claim):
                self.view.apply(item)
                self._changes.tasks[claim.task] = None
            case (
                TaskAdded(task) | TaskDeleted(task) | TaskRemoved(task)
            ):  # pragma: no branch - a session takes the rest
                self.view.apply(item)
                self._changes.tasks[task] = None
