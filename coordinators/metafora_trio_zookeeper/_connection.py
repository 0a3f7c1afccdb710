"""The narrow seam between a session and a ZooKeeper client.

Everything the coordinator needs from ZooKeeper is in the `Connection` protocol. kazoo lives behind it
(`_kazoo/`); a simulated ensemble can be plugged in the same way.

The rules that make the seam worth having, kept by every implementation:

* **One order.** States, watch events and replies reach the `Sink` and the callbacks in the order in which
  they came on the wire, all in the Trio thread, one at a time. In particular the event of an own write
  comes before the reply to it.
* **Nothing blocks.** Every request is a plain call that queues and returns, also while disconnected.
  (A request made while disconnected or closing is refused: its callback gets `CONNECTION_LOSS`.)
* **Every callback is called exactly once**, with a `Reply` or a `RequestError`; at the latest when the
  connection breaks or is closed. Never from inside the call that made the request.
* **One session.** A connection never starts a second session; EXPIRED, AUTH_FAILED and CLOSED are final.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "Check",
    "Connection",
    "ConnectionState",
    "Create",
    "Delete",
    "ErrorCode",
    "EventType",
    "ReadResult",
    "Reply",
    "RequestError",
    "SetData",
    "Sink",
    "WriteOp",
]


class ConnectionState(enum.Enum):
    """What the client believes about its connection."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    AUTH_FAILED = "auth failed"
    CLOSED = "closed"


class EventType(enum.IntEnum):
    """The types of watch event a persistent recursive watch can send (values are ZooKeeper's)."""

    CREATED = 1
    DELETED = 2
    CHANGED = 3


class ErrorCode(enum.Enum):
    """Why a request failed."""

    NO_NODE = "no node"
    NODE_EXISTS = "node exists"
    BAD_VERSION = "bad version"
    NOT_EMPTY = "not empty"
    NO_CHILDREN_FOR_EPHEMERALS = "no children for ephemerals"
    NO_AUTH = "no auth"
    ROLLED_BACK = "rolled back"
    UNIMPLEMENTED = "unimplemented"
    CONNECTION_LOSS = "connection loss"
    SESSION_EXPIRED = "session expired"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Create:
    """Create a znode, with the connection's ACL for new ones. The server completes the name of a sequential one."""

    path: str
    data: bytes = b""
    ephemeral: bool = False
    sequential: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    path: str
    version: int = -1


@dataclass(frozen=True, slots=True)
class Check:
    path: str
    version: int = -1


@dataclass(frozen=True, slots=True)
class SetData:
    path: str
    data: bytes
    version: int = -1


WriteOp = Create | Delete | Check | SetData


class RequestError(Exception):
    """A request failed.

    Attributes:
        code: why.
        index: which operation of a transaction was refused, or None.
    """

    def __init__(self, code: ErrorCode, index: int | None = None, detail: str = "") -> None:
        where = "" if index is None else f" (operation {index})"
        super().__init__(f"{code.value}{where}{': ' + detail if detail else ''}")
        self.code = code
        self.index = index


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A znode's data, and the useful part of its stat."""

    data: bytes
    version: int
    mtime_ms: int
    ephemeral_owner: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A request succeeded.

    Attributes:
        value: for `transact`, a tuple with the created path of each `Create` and None for other
            operations; for `read`, a tuple of `ReadResult | None` (None: no such znode); for `children`,
            a list of names; for `add_watch` and `heartbeat`, None.
        zxid: the transaction id in the reply's header.
    """

    value: Any
    zxid: int


Done = Callable[[Reply | RequestError], None]


class Sink(Protocol):
    """Takes states and events; called in the Trio thread, must not block and must not raise."""

    def on_state(self, state: ConnectionState) -> None: ...

    def on_event(self, event: EventType, path: str) -> None: ...


class Connection(Protocol):
    """One ZooKeeper session's connection. All methods but `open` and `aclose` are synchronous, non-blocking,
    and called from the Trio thread only."""

    @property
    def state(self) -> ConnectionState:
        """The state that the sink was last notified of."""
        ...

    @property
    def session_id(self) -> int:
        """The server's id of this session; 0 before the first connect."""
        ...

    @property
    def session_timeout(self) -> float:
        """The *negotiated* session timeout in seconds; servers clamp what was asked for. Each connect may change it;
        0.0 before the first."""
        ...

    @property
    def server(self) -> str:
        """`host:port` of the server in use, or the empty string."""
        ...

    @property
    def number(self) -> int:
        """Counts the connects of this session: 1, 2, ... A reply to a request of an older number is
        delivered as CONNECTION_LOSS."""
        ...

    @property
    def proof(self) -> float:
        """The largest `stamp` of an acknowledged heartbeat, -inf before the first.

        Set where the reply is read, so that it is current even while a backlog of events waits for Trio."""
        ...

    @property
    def connected_at(self) -> float:
        """When this connection's socket was connected, on Trio's clock; -inf before the first.

        Nothing was sent on it before. So the server has heard of the session no earlier than that, however late its
        answer was read."""
        ...

    @property
    def backlog(self) -> int:
        """How many states, events and replies wait to be delivered."""
        ...

    async def open(self, sink: Sink) -> None:
        """Start connecting and return. From here on `sink` is notified of states, CONNECTED first."""
        ...

    async def aclose(self) -> None:
        """Close the session at the server (its ephemerals go) and free the socket and the thread.

        Bounded in time (about one session timeout when the servers do not answer) and shielded: it cannot
        be cancelled. Idempotent. Requests queued before it are still sent; later ones are refused."""
        ...

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        """All of `ops` or none, as one ZooKeeper multi. At most about 0.9 MB."""
        ...

    def read(self, paths: Sequence[str], done: Done) -> None:
        """The data of many znodes in one request (multiRead)."""
        ...

    def children(self, path: str, done: Done) -> None:
        """The names below `path`."""
        ...

    def add_watch(self, path: str, done: Done) -> None:
        """A persistent recursive watch at `path`; it dies with the connection."""
        ...

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        """A transaction that only checks that `path` exists: the one proof that the session lives."""
        ...

    def drop(self) -> None:
        """Break the TCP connection and reconnect with the same session, if possible to another server."""
        ...
