"""Creation and removal of a namespace: its directories and its layout record, each in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from metafora_trio import CoordinatorUnavailable

from ._connection import Check, Connection, Create, Delete, ErrorCode, ReadResult, RequestError, SetData, WriteOp
from ._errors import translate
from ._layout import MAX_OPS, Layout
from ._plain_connection import children_of, open_connection
from ._replies import Burst, ask, read_one

__all__ = ["ensure_namespace", "find_namespace", "remove_namespace"]

_log = logging.getLogger("metafora_trio.zookeeper")

_LOOK = 0.2
"""Seconds between two checks that the last node has gone."""


async def find_namespace(connection: Connection, layout: Layout) -> bool:
    """Check the layout record of the namespace, and learn its generation.

    The record is read behind a barrier. Otherwise a server that lags could show the record of an earlier namespace.

    Returns:
        False if the namespace does not exist.

    Raises:
        LayoutMismatch: the namespace was created by a newer version, or with other settings.
        RequestError: ZooKeeper refused, or the connection broke; then try again.
    """
    root = await _read_root(connection, layout)
    if root is None or not root.data:
        return False
    layout.check_record(root.data)
    return True


async def ensure_namespace(connection: Connection, layout: Layout, now: float) -> None:
    """Check the layout record of the namespace, as `find_namespace` does, or create the namespace if there is none.

    It is created in one transaction. So it exists completely or not at all, and only one of several concurrent
    attempts succeeds. An empty root, which an operator may have created for its ACL, is used as it is.

    Args:
        connection: the connection to use.
        layout: the namespace.
        now: the date and time, in seconds since 1970, for the generation of a new namespace.

    Raises:
        LayoutMismatch: the namespace was created by a newer version, or with other settings.
        CoordinatorUnavailable: the root has children, but no layout record.
        RequestError: ZooKeeper refused, or the connection broke; then try again.
    """
    record = layout.new_record(now)
    for _ in range(3):
        root = await _read_root(connection, layout)
        if root is not None and root.data:
            layout.check_record(root.data)
            return
        first: WriteOp
        if root is None:
            first = Create(layout.root, record)
            await _make_parents(connection, layout.root)
        else:
            first = SetData(layout.root, record, root.version)
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
            layout.check_record(record)
            _log.info("created namespace %s", layout.root)
            return
    raise CoordinatorUnavailable(f"{layout.root} is being created and removed by others")


async def _read_root(connection: Connection, layout: Layout) -> ReadResult | None:
    """Read the root behind a barrier."""
    burst = Burst()
    connection.transact([Check(layout.root)], burst.slot())
    root = burst.slot()
    connection.read([layout.root], root)
    try:
        await burst.wait()
    except RequestError as error:
        if error.code is ErrorCode.NO_NODE:
            return None
        raise
    assert isinstance(root.value, tuple)
    found: ReadResult | RequestError | None = root.value[0]
    if isinstance(found, RequestError):
        raise found
    return found


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
