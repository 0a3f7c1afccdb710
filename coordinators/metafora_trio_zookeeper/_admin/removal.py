"""Removal of a namespace with everything in it, while nodes or clients may be about to use it.

The directory of nodes goes first, in a transaction that fails while it holds a node. From then on no node can join, so
what is then deleted belongs to nobody. All other directories go last, in one transaction with the root. So a client
that submits tasks finds all of them, or none and makes the namespace again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from metafora_trio import CoordinatorUnavailable
from metafora_trio_zookeeper._connection import Connection, Create, Delete, ErrorCode, Reply, RequestError
from metafora_trio_zookeeper._errors import translate
from metafora_trio_zookeeper._layout import MAX_OPS, Layout
from metafora_trio_zookeeper._plain_connection import children_of, open_connection
from metafora_trio_zookeeper._replies import ask, read_one

__all__ = ["remove_namespace"]

_log = logging.getLogger("metafora_trio.zookeeper")

_LOOK = 0.2
"""Seconds between two checks that the last node has gone."""
_ROUNDS = 10
"""The number of attempts to delete everything while clients go on to submit tasks."""


async def remove_namespace(connect: Callable[[], Connection], layout: Layout, *, hosts: str, patience: float) -> None:
    """Remove a namespace with everything in it. First wait for nodes to go: a killed one's session ends later.

    If it fails or is cancelled, part of what is in the namespace may be gone, but nodes can join it.

    Args:
        connect: makes a connection.
        layout: the namespace.
        hosts: for messages.
        patience: seconds to wait for a server, and again for the last node to go.

    Raises:
        LayoutMismatch: the namespace was made by another version, or with other settings.
        CoordinatorUnavailable: no server was reached, nodes are alive, or others are using the namespace.
    """
    async with open_connection(connect, hosts=hosts, patience=patience) as connection:
        try:
            if await _is_there(connection, layout):
                await _remove(connection, layout, patience)
        except RequestError as error:
            if error.code in (ErrorCode.NO_NODE, ErrorCode.NOT_EMPTY):
                raise CoordinatorUnavailable(f"{layout.root} is being used by others, and was not removed") from error
            raise await translate(hosts, connection.server, error) from error


async def _is_there(connection: Connection, layout: Layout) -> bool:
    """Return whether there is a namespace, after checking that nothing else would go with it."""
    root = await read_one(connection, layout.root)
    if root is None:
        return False
    (names,) = await children_of(connection, [layout.root])
    if not root.data:
        if names:
            raise CoordinatorUnavailable(f"{layout.root} is not a Metafora namespace: it has no layout record")
        return False
    layout.check_record(root.data)
    directories = layout.directories()
    if others := [name for name in names if f"{layout.root}/{name}" not in directories]:
        raise CoordinatorUnavailable(
            f"{layout.root} was not removed: it contains what Metafora has not made: {', '.join(sorted(others)[:5])}"
        )
    return True


async def _remove(connection: Connection, layout: Layout, patience: float) -> None:
    directories = [path for path in layout.directories() if path != layout.nodes]
    removed = False
    try:
        await _close(connection, layout, patience)
        for _ in range(_ROUNDS):
            await _empty(connection, directories)
            try:
                await _delete_together(connection, [*reversed(directories), layout.root])
            except RequestError as error:
                if error.code is not ErrorCode.NOT_EMPTY:
                    raise
            else:
                removed = True
                return
        raise CoordinatorUnavailable(f"{layout.root} was not removed: tasks are being submitted all the time")
    finally:
        if not removed:
            # Only queued, so that this is done even if cancelled. If the removal was carried out and its answer was
            # lost, there is no root either.
            connection.transact([Create(layout.nodes)], lambda reply: _on_reopened(layout, reply))


def _on_reopened(layout: Layout, reply: Reply | RequestError) -> None:
    if isinstance(reply, RequestError) and reply.code not in (ErrorCode.NODE_EXISTS, ErrorCode.NO_NODE):
        _log.warning("no node can join %s before it is removed completely: creating its nodes: %s", layout.root, reply)


async def _close(connection: Connection, layout: Layout, patience: float) -> None:
    """Delete the directory of nodes as soon as it is empty, so that no node can join."""
    nodes: list[str] = []
    with trio.move_on_after(patience):
        while True:
            try:
                await _delete_together(connection, [layout.nodes])
            except RequestError as error:
                if error.code is ErrorCode.NO_NODE:
                    return  # an earlier removal was killed
                if error.code is not ErrorCode.NOT_EMPTY:
                    raise
            else:
                return
            ((nodes),) = await children_of(connection, [layout.nodes])
            await trio.sleep(_LOOK)
    raise CoordinatorUnavailable(f"{layout.root} was not removed: nodes still joined: {', '.join(nodes[:5])}")


async def _empty(connection: Connection, directories: Sequence[str]) -> None:
    """Delete everything in some directories, except these directories themselves."""
    kept = frozenset(directories)
    names = await children_of(connection, directories)
    inside = [f"{path}/{name}" for path, below in zip(directories, names, strict=True) for name in below]
    await _delete(connection, [path for path in inside if path not in kept])


async def _delete(connection: Connection, paths: Sequence[str]) -> None:
    """Delete znodes, with everything that somebody may have made below them."""
    for first in range(0, len(paths), MAX_OPS):
        rest = list(paths[first : first + MAX_OPS])
        while rest:
            try:
                await _delete_together(connection, rest)
            except RequestError as error:
                if error.index is None or error.code not in (ErrorCode.NO_NODE, ErrorCode.NOT_EMPTY):
                    raise
                path = rest.pop(error.index)
                if error.code is ErrorCode.NOT_EMPTY:
                    (names,) = await children_of(connection, [path])
                    await _delete(connection, [*(f"{path}/{name}" for name in names), path])
                # Otherwise it has gone by itself, such as a claim whose session has just ended.
            else:
                break


async def _delete_together(connection: Connection, paths: Sequence[str]) -> None:
    """Delete all znodes at these paths or none."""
    await ask(lambda done: connection.transact([Delete(path) for path in paths], done))
