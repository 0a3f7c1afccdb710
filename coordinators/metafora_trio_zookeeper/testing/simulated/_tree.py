"""Tree: the znodes of a simulated ZooKeeper, and the effect of a transaction on them.

This is plain data: no sessions, no network, no clock. A replica is a `Tree`. Its entries are immutable and shared by
all replicas, so the cost of applying a transaction depends only on the number of changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from metafora_trio_zookeeper._connection import (
    Check,
    Create,
    Delete,
    ErrorCode,
    EventType,
    ReadResult,
    RequestError,
    Stat,
    WriteOp,
)
from metafora_trio_zookeeper._layout import LAST_SEQUENCE

__all__ = ["Changes", "Forbidden", "Outcome", "Tree", "Znode", "carry_out", "end_session", "parent_of"]

_NO_NAMES: Final[frozenset[str]] = frozenset()


class Znode(NamedTuple):
    """One znode as a transaction left it.

    Attributes:
        owner: the session that an ephemeral belongs to, or 0.
        creates: the number of children ever created, which is also the next sequence number.
    """

    data: bytes = b""
    owner: int = 0
    version: int = 0
    creates: int = 0
    czxid: int = 0
    mzxid: int = 0
    pzxid: int = 0
    mtime_ms: int = 0
    children: frozenset[str] = _NO_NAMES

    @property
    def cversion(self) -> int:
        """The number of creates and deletes of children, as in a Stat."""
        return 2 * self.creates - len(self.children)

    def result(self) -> ReadResult:
        """Return the result of reading it."""
        return ReadResult(self.data, self.version, self.mtime_ms, self.owner)

    def stat(self) -> Stat:
        """Return the result of looking it up."""
        return Stat(self.version, len(self.data))


Changes = Mapping[str, Znode | None]
"""The changed znodes by path as a transaction leaves them; None for a deleted one."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The actions that ACLs forbid to every session. As in ZooKeeper, a znode's own ACL says who may read it, check it
    and set its data, and its parent's ACL who may create and delete it.

    Attributes:
        reading: the znodes that may be neither read nor looked up. (Before 3.8.4 ZooKeeper allows the latter.) Their
            names are listed all the same.
        events: the znodes whose events are not sent. ZooKeeper 3.8.4 and later do so for all that may not be read.
        writing: the znodes whose data may not be set and whose children may be neither created nor deleted.
    """

    reading: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)
    writing: set[str] = field(default_factory=set)


_NOTHING_FORBIDDEN: Final = Forbidden()


class Outcome(NamedTuple):
    """The effects of a transaction.

    Attributes:
        changes: its changes to the tree.
        events: its events, in the order in which a recursive watch sends them.
        created: for each operation, the path it created, or None.
    """

    changes: Changes
    events: tuple[tuple[EventType, str], ...]
    created: tuple[str | None, ...]


class Tree(dict[str, Znode]):
    """The znodes by path.

    Attributes:
        first_sequence: the first sequence number in each directory that is created.
    """

    def __init__(self) -> None:
        super().__init__({"/": Znode()})
        self.first_sequence: int = 0

    def apply(self, changes: Changes) -> None:
        for path, node in changes.items():
            if node is None:
                # The path may be missing here, since a transaction can create a znode and delete it again.
                self.pop(path, None)
            else:
                self[path] = node


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


class _Draft:
    """A tree with the changes of a transaction that may still fail."""

    def __init__(self, tree: Tree, zxid: int, now_ms: int, forbidden: Forbidden) -> None:
        self._tree = tree
        self._forbidden = forbidden
        self._zxid = zxid
        self._now_ms = now_ms
        self.changes: dict[str, Znode | None] = {}
        self.events: list[tuple[EventType, str]] = []

    def carry_out(self, op: WriteOp, session: int) -> str | None:
        if isinstance(op, Create):
            return self._create(op, session)
        node = self._get(op.path)
        if isinstance(op, Check):
            self._permit(op.path, self._forbidden.reading)
        else:
            self._permit(parent_of(op.path) if isinstance(op, Delete) else op.path, self._forbidden.writing)
        if op.version not in (-1, node.version):
            raise RequestError(ErrorCode.BAD_VERSION)
        if isinstance(op, Delete):
            self.delete(op.path, node)
        elif not isinstance(op, Check):
            changed = node._replace(data=op.data, version=node.version + 1, mzxid=self._zxid, mtime_ms=self._now_ms)
            self._put(EventType.CHANGED, op.path, changed)
        return None

    def _create(self, op: Create, session: int) -> str:
        parent = parent_of(op.path)
        above = self._get(parent)
        self._permit(parent, self._forbidden.writing)
        # The counter stays at its end. The negative numbers of children created in one instant are not modelled.
        path = f"{op.path}{min(above.creates, LAST_SEQUENCE):010}" if op.sequential else op.path
        if self._find(path) is not None:
            raise RequestError(ErrorCode.NODE_EXISTS)
        if above.owner:
            raise RequestError(ErrorCode.NO_CHILDREN_FOR_EPHEMERALS)
        zxid = self._zxid
        owner = session if op.ephemeral else 0
        first = self._tree.first_sequence
        node = Znode(op.data, owner, creates=first, czxid=zxid, mzxid=zxid, pzxid=zxid, mtime_ms=self._now_ms)
        self._put(EventType.CREATED, path, node)
        names = above.children | {path.rpartition("/")[2]}
        self.changes[parent] = above._replace(children=names, creates=above.creates + 1, pzxid=zxid)
        return path

    def delete(self, path: str, node: Znode) -> None:
        if path == "/":
            raise RequestError(ErrorCode.OTHER, detail="the root cannot be deleted")
        if node.children:
            raise RequestError(ErrorCode.NOT_EMPTY)
        self._put(EventType.DELETED, path, None)
        parent = parent_of(path)
        above = self._get(parent)
        names = above.children - {path.rpartition("/")[2]}
        self.changes[parent] = above._replace(children=names, pzxid=self._zxid)

    def _permit(self, path: str, forbidden: set[str]) -> None:
        if path in forbidden:
            raise RequestError(ErrorCode.NO_AUTH)

    def _put(self, event: EventType, path: str, node: Znode | None) -> None:
        self.changes[path] = node
        self.events.append((event, path))

    def _find(self, path: str) -> Znode | None:
        return self.changes[path] if path in self.changes else self._tree.get(path)

    def _get(self, path: str) -> Znode:
        node = self._find(path)
        if node is None:
            raise RequestError(ErrorCode.NO_NODE)
        return node


def carry_out(
    tree: Tree,
    ops: Sequence[WriteOp],
    *,
    session: int,
    zxid: int,
    now_ms: int,
    forbidden: Forbidden = _NOTHING_FORBIDDEN,
) -> Outcome:
    """Return the outcome of a transaction of `session`, without changing the tree.

    Raises:
        RequestError: an operation is refused (`index` is its index), so nothing is done.
    """
    draft = _Draft(tree, zxid, now_ms, forbidden)
    created = list[str | None]()
    for index, op in enumerate(ops):
        try:
            created.append(draft.carry_out(op, session))
        except RequestError as error:
            raise RequestError(error.code, index) from None
    return Outcome(draft.changes, tuple(draft.events), tuple(created))


def end_session(tree: Tree, paths: Sequence[str], *, zxid: int) -> Outcome:
    """Return the outcome of a session's end, which deletes its ephemerals in the order of `paths`."""
    draft = _Draft(tree, zxid, 0, _NOTHING_FORBIDDEN)
    for path in paths:
        draft.delete(path, tree[path])
    return Outcome(draft.changes, tuple(draft.events), ())
