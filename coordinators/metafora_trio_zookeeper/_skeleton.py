"""The first use of a namespace: its directories and its layout record, in one transaction."""

from __future__ import annotations

from metafora_trio._errors import CoordinatorUnavailable

from ._connection import Connection, Create, ErrorCode, RequestError, SetData, WriteOp
from ._layout import Layout
from ._replies import ask

__all__ = ["ensure_namespace"]


async def ensure_namespace(connection: Connection, layout: Layout) -> None:
    """Check the layout record of the namespace; make the namespace if it is not there.

    Since all of it comes in one transaction, it is there whole or not at all, and of several that make it at once one
    does. A root made beforehand by an operator (for its ACL) is used, if nothing stands in it.

    Raises:
        LayoutMismatch: the namespace was made by a newer version, or with other settings.
        CoordinatorUnavailable: something else stands below the root.
        RequestError: ZooKeeper refused, or the connection broke; then try again.
    """
    for _ in range(3):
        root = (await ask(lambda done: connection.read([layout.root], done))).value[0]
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
                    f"{layout.root} has no layout record, but something stands below it already: not Metafora's"
                ) from error
            if error.code not in (ErrorCode.NODE_EXISTS, ErrorCode.BAD_VERSION):
                raise
            # Another node was faster: look at what it made.
        else:
            return
    raise CoordinatorUnavailable(f"{layout.root} is being made and removed again by others")


async def _make_parents(connection: Connection, root: str) -> None:
    """Make the directories above the root, one by one: each may be there, or be made by another at this moment."""
    names = root.split("/")[1:-1]
    for depth in range(1, len(names) + 1):
        path = "/" + "/".join(names[:depth])
        try:
            await ask(lambda done, path=path: connection.transact([Create(path)], done))  # type: ignore[misc]
        except RequestError as error:
            if error.code is not ErrorCode.NODE_EXISTS:
                raise
