"""A connection without a view or a lease, for one-off work such as removing a namespace."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from metafora_trio import CoordinatorUnavailable

from ._connection import Connection, ConnectionState, EventType
from ._replies import Burst

__all__ = ["children_of", "open_connection"]


class _Waiting:
    """A `Sink` that only waits to be connected."""

    def __init__(self) -> None:
        self.connected = trio.Event()

    def on_state(self, state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED:
            self.connected.set()

    def on_event(self, event: EventType, path: str) -> None:
        pass  # nothing is watched


@asynccontextmanager
async def open_connection(
    connect: Callable[[], Connection], *, hosts: str, patience: float
) -> AsyncGenerator[Connection]:
    """Connect for the length of the block, then close the session.

    Args:
        connect: makes a connection.
        hosts: for messages.
        patience: seconds to wait for a server.

    Raises:
        CoordinatorUnavailable: no server was reached.
    """
    connection, sink = connect(), _Waiting()
    try:
        await connection.open(sink)
        with trio.move_on_after(patience):
            await sink.connected.wait()
        if not sink.connected.is_set():
            state = connection.state.value
            raise CoordinatorUnavailable(f"no answer from ZooKeeper at {hosts} within {patience:g} s ({state})")
        yield connection
    finally:
        await connection.aclose()


async def children_of(connection: Connection, paths: Iterable[str]) -> list[list[str]]:
    """Return the names below each path, listed in one burst.

    Raises:
        RequestError: one of the paths does not exist, or the connection broke.
    """
    burst = Burst()
    slots = []
    for path in paths:
        slot = burst.slot()
        connection.children(path, slot)
        slots.append(slot)
    await burst.wait()
    return [[str(name) for name in slot.reply.value] for slot in slots if slot.reply is not None]
