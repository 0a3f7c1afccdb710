"""Feed: a live view of the store, updated over a wire with a delay."""

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
    """One direction of a connection: items arrive in order, `latency` seconds after they were put in.

    Attributes:
        latency: the delay in seconds.
        cut: True if all items are held back, as in a network partition.
    """

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.cut = False
        self._items: deque[tuple[float, T]] = deque()
        self._changed = RepeatedEvent()

    def put(self, item: T) -> None:
        self._items.append((trio.current_time() + self.latency, item))
        self._changed.set()

    def reconnect(self) -> None:
        self.cut = False
        self._changed.set()

    @property
    def arrived(self) -> bool:
        """True if an item has arrived and has not been taken."""
        return not self.cut and bool(self._items) and self._items[0][0] <= trio.current_time()

    def take(self) -> Iterator[T]:
        """Take the items that have arrived, one by one."""
        while self.arrived:
            yield self._items.popleft()[1]

    def take_all(self) -> Iterator[T]:
        """Take every item, even if it is still on the way."""
        while self._items:
            yield self._items.popleft()[1]

    async def wait_arrived(self) -> None:
        """Wait until an item has arrived. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self.arrived:
            if self.cut or not self._items:
                await self._changed.wait()
            else:
                await trio.sleep_until(self._items[0][0])


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request of a session to the store. It is in flight until its answer has arrived.

    Attributes:
        effect: carries the request out at the store; does nothing if the request's condition does not hold.
        task: the task, if the request is about one.
        leaving: the claim to give up; None for a claim or bid, which adds one.
    """

    effect: Callable[[], None]
    task: str | None = None
    leaving: Claim | None = None


Item = ViewEvent | QueuedCommand | Request | ClusterView


class Feed:
    """A live view of the store, and the changes since they were last taken."""

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
        """Apply arriving items, forever."""
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
            ):  # pragma: no branch - a session handles the other items
                self.view.apply(item)
                self._changes.tasks[task] = None
