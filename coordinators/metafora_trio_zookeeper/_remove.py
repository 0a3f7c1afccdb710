"""Removing a namespace, and the plain connection for such work that is done once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from metafora_trio._errors import CoordinatorUnavailable

from ._batch import MAX_OPS
from ._connection import Connection, ConnectionState, Delete, ErrorCode, EventType, RequestError
from ._errors import translate
from ._layout import Layout
from ._replies import Burst, ask

__all__ = ["children_of", "open_connection", "remove_namespace"]

_LOOK = 0.2
"""Seconds between two looks whether the last node has gone."""


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
    """Connect; on leaving, close the session.

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
    """The names below each path, all asked for at once.

    Raises:
        RequestError: one of the paths is not there, or the connection broke.
    """
    burst = Burst()
    slots = []
    for path in paths:
        slot = burst.slot()
        connection.children(path, slot)
        slots.append(slot)
    await burst.wait()
    return [[str(name) for name in slot.reply.value] for slot in slots if slot.reply is not None]


async def remove_namespace(connect: Callable[[], Connection], layout: Layout, *, hosts: str, patience: float) -> None:
    """Remove a namespace with all that is in it. Waits for nodes to go, for a session that was killed takes a while.

    Args:
        connect: makes a connection.
        layout: the namespace.
        hosts: for messages.
        patience: seconds to wait for a server, and again for the last node to go.

    Raises:
        CoordinatorUnavailable: no server was reached, nodes are alive, or others are using the namespace.
    """
    async with open_connection(connect, hosts=hosts, patience=patience) as connection:
        try:
            if (await ask(lambda done: connection.read([layout.root], done))).value[0] is None:
                return
            await _wait_deserted(connection, layout, patience)
            directories = [path for path in layout.directories() if path.count("/") > layout.root.count("/") + 1]
            directories += [layout.nodes, layout.orders]
            names = await children_of(connection, directories)
            inside = [f"{path}/{name}" for path, below in zip(directories, names, strict=True) for name in below]
            for first in range(0, len(inside), MAX_OPS):
                ops = [Delete(path) for path in inside[first : first + MAX_OPS]]
                await ask(lambda done, ops=ops: connection.transact(ops, done))  # type: ignore[misc]
            # At once, as it was made: a node that joins at this moment finds all of it, or nothing and makes it anew.
            ends = [Delete(path) for path in [*reversed(layout.directories()), layout.root]]
            await ask(lambda done: connection.transact(ends, done))
        except RequestError as error:
            if error.code in (ErrorCode.NO_NODE, ErrorCode.NOT_EMPTY):
                raise CoordinatorUnavailable(f"{layout.root} is being used by others, and was not removed") from error
            raise await translate(hosts, connection.server, error) from error


async def _wait_deserted(connection: Connection, layout: Layout, patience: float) -> None:
    nodes: list[str] = []
    with trio.move_on_after(patience):
        while True:
            ((nodes),) = await children_of(connection, [layout.nodes])
            if not nodes:
                return
            await trio.sleep(_LOOK)
    raise CoordinatorUnavailable(f"{layout.root} was not removed: {', '.join(nodes[:5])} still there")
