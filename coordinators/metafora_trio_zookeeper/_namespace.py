"""Creation of a namespace: its directories and its layout record, in one transaction."""

from __future__ import annotations

import logging

from metafora_trio import CoordinatorUnavailable

from ._connection import Check, Connection, Create, ErrorCode, ReadResult, RequestError, SetData, WriteOp
from ._layout import Layout
from ._replies import Burst, ask

__all__ = ["ensure_namespace", "find_namespace"]

_log = logging.getLogger("metafora_trio.zookeeper")


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
