"""The narrow seam between a session and a ZooKeeper client.

The `Connection` protocol holds everything that the coordinator needs from ZooKeeper. It is implemented on kazoo
(`_kazoo/`) and by a simulated ensemble (`testing/simulated/`).

Every implementation keeps these rules:

* **One order.** States, watch events and replies reach the `Sink` and the callbacks in wire order, one at a time, all
  in the Trio thread. In particular, the event of an own write comes before the reply to it.
* **Nothing blocks.** Every request is a plain call that queues and returns, even while disconnected. (A request made
  while disconnected or closing is refused: its callback gets `CONNECTION_LOSS`.)
* **Every callback is called exactly once**, with a `Reply` or a `RequestError`, no later than when the connection
  breaks or is closed, and never from inside the call that made the request.
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
    "Stat",
    "WriteOp",
]


class ConnectionState(enum.Enum):
    """The state of a connection, as the client believes it to be."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    AUTH_FAILED = "auth failed"
    CLOSED = "closed"


class EventType(enum.IntEnum):
    """The types of event that a persistent recursive watch sends. The values are ZooKeeper's."""

    CREATED = 1
    DELETED = 2
    CHANGED = 3


class ErrorCode(enum.Enum):
    """The reason why a request failed."""

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
    """Create a znode with the connection's ACL. The server appends a number to the name of a sequential one."""

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
        code: the reason.
        index: the index of the operation of a transaction that was refused, or None.
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
class Stat:
    """The useful part of a znode's stat, without its data.

    Attributes:
        version: the number of changes of its data.
        size: the bytes of its data.
    """

    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A request succeeded.

    Attributes:
        value: for `transact`, a tuple with the created path for each `Create` and None for each other operation; for
            `read`, a tuple with a `ReadResult` for each path, or None if there is no such znode, or the `RequestError`
            with which this znode was refused; for `exists`, the same with a `Stat` for each path; for `children`, a
            list of names; for `add_watch` and `heartbeat`, None.
        zxid: the transaction id in the reply's header.
    """

    value: Any
    zxid: int


Done = Callable[[Reply | RequestError], None]


class Sink(Protocol):
    """Takes states and events. Its methods are called in the Trio thread, and must neither block nor raise."""

    def on_state(self, state: ConnectionState) -> None: ...

    def on_event(self, event: EventType, path: str) -> None: ...


class Connection(Protocol):
    """One ZooKeeper session's connection. All methods but `open` and `aclose` are synchronous, non-blocking,
    and called from the Trio thread only. (`send_from_thread` and `halt_from_thread` are for other threads.)"""

    @property
    def state(self) -> ConnectionState:
        """The state most recently passed to the sink."""
        ...

    @property
    def session_id(self) -> int:
        """The server's id of this session; 0 before the first connect."""
        ...

    @property
    def session_timeout(self) -> float:
        """The *negotiated* session timeout in seconds, since servers clamp the requested one. Each connect may change
        it; 0.0 before the first."""
        ...

    @property
    def server(self) -> str:
        """`host:port` of the server in use, or the empty string."""
        ...

    @property
    def number(self) -> int:
        """The number of connects of this session so far: 1, 2, ... A request made under an earlier number fails with
        CONNECTION_LOSS, even if its reply comes later."""
        ...

    @property
    def proof(self) -> float:
        """The largest `stamp` of an acknowledged heartbeat; -inf before the first.

        It is set where the reply is read, so it is current even while a backlog of events waits for Trio."""
        ...

    @property
    def connected_at(self) -> float:
        """The time at which this connection's socket was connected, on Trio's clock; -inf before the first.

        Nothing was sent on the socket before then. So the server renewed the session no earlier than that, however
        late its answer was read."""
        ...

    @property
    def received(self) -> int:
        """A number that grows with whatever is received, even in the middle of a long reply. It is current even while
        nothing can be delivered."""
        ...

    @property
    def halted(self) -> str:
        """Why this connection was halted from here, or the empty string: the reason given to `halt_from_thread`, or
        that more waited to be delivered than fits into memory. The state CLOSED follows."""
        ...

    @property
    def backlog(self) -> int:
        """The number of states, events and replies that wait to be delivered."""
        ...

    async def open(self, sink: Sink) -> None:
        """Start connecting and return. From then on `sink` is notified of states, the first being CONNECTED."""
        ...

    async def aclose(self) -> None:
        """Close the session at the server, which deletes its ephemerals, and free the socket and the thread.

        Shielded from cancellation, but bounded: it takes about one session timeout if the servers do not answer.
        Idempotent. Requests queued earlier are still sent; later ones are refused."""
        ...

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        """Carry out all of `ops` or none, as one ZooKeeper multi. At most about 0.9 MB."""
        ...

    def read(self, paths: Sequence[str], done: Done) -> None:
        """Read many znodes in one request (multiRead). One that may not be read does not fail the others."""
        ...

    def exists(self, paths: Sequence[str], done: Done) -> None:
        """Look up many znodes, in as many pipelined requests with small replies. One that may not be looked up does not
        fail the others. (ZooKeeper 3.8.4 and later demand the permission to read it.)"""
        ...

    def children(self, path: str, done: Done) -> None:
        """List the names below `path`."""
        ...

    def add_watch(self, path: str, done: Done) -> None:
        """Add a persistent recursive watch at `path`. It ends with the connection."""
        ...

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        """Send a transaction that only checks that `path` exists. Its reply is the only proof that the session is
        alive."""
        ...

    def drop(self) -> None:
        """Break the TCP connection and reconnect with the same session, to another server if possible."""
        ...

    # ---- the only two methods that other threads may call, even while the event loop is blocked

    def send_from_thread(self, ops: Sequence[WriteOp]) -> None:
        """Send a transaction on the present connection or, if there is none, on the next. Nobody gets its reply.

        Use it only for what may take place at any time while the session lives, even before a barrier."""
        ...

    def halt_from_thread(self, reason: str) -> None:
        """Break the connection and make no other, so that the servers expire the session after its timeout.

        The state CLOSED is delivered once the event loop runs, after everything that had arrived before."""
        ...
