"""Creation and removal of a namespace: its directories and its layout record, each in one transaction."""

from __future__ import annotations

from collections.abc import Callable

import trio

from metafora_trio import CoordinatorUnavailable

from ._connection import Connection, Create, Delete, ErrorCode, RequestError, SetData, WriteOp
from ._errors import translate
from ._layout import MAX_OPS, Layout
from ._plain_connection import children_of, open_connection
from ._replies import ask, read_one

__all__ = ["ensure_namespace", "remove_namespace"]

_LOOK = 0.2
"""Seconds between two checks that the last node has gone."""


async def ensure_namespace(connection: Connection, layout: Layout) -> None:
    """Check the layout record of the namespace, or create the namespace if it does not exist.

    It is created in one transaction. So it exists completely or not at all, and only one of several concurrent
    attempts succeeds. An empty root, which an operator may have created for its ACL, is used as it is.

    Raises:
        LayoutMismatch: the namespace was created by a newer version, or with other settings.
        CoordinatorUnavailable: the root has children, but no layout record.
        RequestError: ZooKeeper refused, or the connection broke; then try again.
    """
    for _ in range(3):
        root = await read_one(connection, layout.root)
        if root is not None and root.data:
            layout.check_record(root.data)
            return
        first: WriteOp
        if root is None:
            first = Create(layout.root, layout.record)
            await _make_parents(connection, layout.root)
        else:
            first = SetData(layout.root, layout.record, root.version)
        ops = [first, *map(Create, layout.directories())]
        try:
            await ask(lambda done, ops=ops: connection.transact(ops, done))  # type: ignore[misc]
        except RequestError as error:
            if error.code is ErrorCode.NODE_EXISTS and error.index:
                raise CoordinatorUnavailable(
                    f"{layout.root} is not a Metafora namespace: it has children but no layout record"
                ) from error
            if error.code not in (ErrorCode.NODE_EXISTS, ErrorCode.BAD_VERSION):
                raise
            # Another node was faster: check the namespace that it created.
        else:
            return
    raise CoordinatorUnavailable(f"{layout.root} is being created and removed by others")


async def _make_parents(connection: Connection, root: str) -> None:
    """Create the directories above the root, one by one, since any may exist or be created by others just now."""
    names = root.split("/")[1:-1]
    for depth in range(1, len(names) + 1):
        path = "/" + "/".join(names[:depth])
        try:
            await ask(lambda done, path=path: connection.transact([Create(path)], done))  # type: ignore[misc]
        except RequestError as error:
            if error.code is not ErrorCode.NODE_EXISTS:
                raise


async def remove_namespace(connect: Callable[[], Connection], layout: Layout, *, hosts: str, patience: float) -> None:
    """Remove a namespace with everything in it. First wait for nodes to go: a killed one's session ends later.

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
            if await read_one(connection, layout.root) is None:
                return
            await _wait_deserted(connection, layout, patience)
            directories = [path for path in layout.directories() if path.count("/") > layout.root.count("/") + 1]
            directories += [layout.nodes, layout.node_commands]
            names = await children_of(connection, directories)
            inside = [f"{path}/{name}" for path, below in zip(directories, names, strict=True) for name in below]
            for first in range(0, len(inside), MAX_OPS):
                ops = [Delete(path) for path in inside[first : first + MAX_OPS]]
                await ask(lambda done, ops=ops: connection.transact(ops, done))  # type: ignore[misc]
            # In one transaction: a node that joins just now finds all directories, or none and creates them again.
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
    raise CoordinatorUnavailable(f"{layout.root} was not removed: nodes still joined: {', '.join(nodes[:5])}")
