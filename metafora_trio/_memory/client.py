"""MemoryClient: a client of the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from metafora_trio.contract import (
    BrokerClient,
    ClusterView,
    Command,
    Task,
    TaskSnapshot,
)

from .feed import Feed
from .store import Store

__all__ = ["MemoryClient"]


class MemoryClient(Feed, BrokerClient):
    """A client of the store, created by `MemoryCoordinator.open_client`."""

    def __init__(self, store: Store, *, latency: float) -> None:
        super().__init__(latency)
        self._store = store
        self._viewing = False

    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        async with self._round_trip():
            self._store.submit(tasks, again=again)

    async def delete(self, tasks: Sequence[str]) -> Sequence[str]:
        async with self._round_trip():
            return [task for task in tasks if not self._store.delete(task)]

    async def look_up(self, tasks: Sequence[str]) -> Sequence[TaskSnapshot]:
        async with self._round_trip():
            return [self._store.look_up(task) for task in tasks]

    async def finished(self) -> Sequence[str]:
        async with self._round_trip():
            return [task for task in self._store.states if task not in self._store.tasks]

    async def send(self, identity: str, command: Command) -> None:
        async with self._round_trip():
            self._store.queue_command(identity, command)

    async def open_view(self) -> ClusterView:
        await trio.lowlevel.checkpoint()
        if not self._viewing:
            self._viewing = True
            self._store.feed(self)
        return self.view

    @asynccontextmanager
    async def _round_trip(self) -> AsyncGenerator[None]:
        """Run the body as the broker's part of a request.

        On return the view shows the effect, because the answer arrives after the events that the request caused.
        """
        await trio.sleep(self.inbox.latency)
        yield
        await trio.sleep(self.inbox.latency)
        self._catch_up()
