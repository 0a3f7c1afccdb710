"""The network between simulated processes and servers: links that fail, and TCP connections on them.

A connection loses nothing while both its ends are open: messages sent over a cut link wait and arrive in order once the
link is healed, just as TCP would retransmit them. This also holds for messages sent before an end was closed. A request
from a process that has died, or has closed this connection, can arrive long afterwards.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from metafora_trio_zookeeper._connection import EventType, Reply, RequestError

if TYPE_CHECKING:
    from metafora_trio.testing.simulation import Process, World

__all__ = ["Answer", "Channel", "Down", "Event", "Hello", "Kind", "Link", "Pipe", "Request", "Up", "Way", "Welcome"]

T = TypeVar("T")

Way = Literal["both", "to", "from"]


class Kind(enum.Enum):
    """The kinds of request."""

    TRANSACT = enum.auto()
    CLOSE = enum.auto()
    READ = enum.auto()
    CHILDREN = enum.auto()
    ADD_WATCH = enum.auto()
    EXISTS = enum.auto()
    STAT = enum.auto()
    PING = enum.auto()


@dataclass(eq=False, slots=True)
class Request:
    """One request of a session; `argument` is the argument of `Connection`'s method."""

    kind: Kind
    argument: Any = None
    stamp: float | None = None

    @property
    def writes(self) -> bool:
        """True if it goes to the leader."""
        return self.kind is Kind.TRANSACT or self.kind is Kind.CLOSE


class Hello(NamedTuple):
    """A client's first message: its session or 0, the last zxid it has seen, and the timeout it requests."""

    session: int
    zxid: int
    timeout: float


class Welcome(NamedTuple):
    """The answer to `Hello`. Session 0 means that the session does not exist, or no longer exists."""

    session: int
    timeout: float


class Event(NamedTuple):
    type: EventType
    path: str


class Answer(NamedTuple):
    request: Request
    result: Reply | RequestError
    zxid: int


# None: the other end has closed the connection.
Up = Hello | Request | None
Down = Welcome | Event | Answer | None


@dataclass(eq=False)
class Link:
    """The link between one process and one server.

    Attributes:
        latency: seconds, each way.
        to_cut: whether the direction to the server is cut.
        from_cut: whether the direction to the process is cut.
        channels: the connections on the link, in the order in which they were made.
    """

    latency: float
    to_cut: bool = False
    from_cut: bool = False
    channels: dict[Channel, None] = field(default_factory=dict)

    @property
    def connected(self) -> bool:
        """True while a connection on it is open at both ends."""
        return any(channel.client_open and channel.server_open for channel in self.channels)

    def cut(self, way: Way) -> None:
        self.to_cut = self.to_cut or way != "from"
        self.from_cut = self.from_cut or way != "to"

    def heal(self) -> None:
        self.to_cut = self.from_cut = False
        for channel in list(self.channels):
            channel.up.resume()
            channel.down.resume()


class Pipe(Generic[T]):
    """One direction of a connection.

    Args:
        deliver: takes all messages that arrive at the same time, in order.
    """

    def __init__(
        self, world: World, link: Link, is_cut: Callable[[], bool], deliver: Callable[[Sequence[T]], None]
    ) -> None:
        self._world = world
        self._link = link
        self._is_cut = is_cut
        self._deliver = deliver
        self._waiting: deque[tuple[float, T]] = deque()
        self._planned = -1.0

    def put(self, item: T) -> None:
        """Send a message. It arrives after all those sent before it."""
        due = self._world.now + self._link.latency
        self._waiting.append((due, item))
        self._plan(due)

    def resume(self) -> None:
        """Send the held messages again."""
        if self._waiting:
            self._plan(self._world.now + self._link.latency)

    @property
    def empty(self) -> bool:
        return not self._waiting

    def _plan(self, due: float) -> None:
        # A message due before the planned time is queued behind one due at that time, and has to wait for it.
        if due > self._planned or self._planned <= self._world.now:
            self._planned = due
            self._world.at(due, self._arrive)

    def _arrive(self) -> None:
        waiting, now = self._waiting, self._world.now
        if not waiting or waiting[0][0] > now or self._is_cut():
            return
        arrived = list[T]()
        while waiting and waiting[0][0] <= now:
            arrived.append(waiting.popleft()[1])
        self._deliver(arrived)


class Channel:
    """One TCP connection between a process and a server.

    Attributes:
        process: the client's process.
        server: the server's number.
        session: the id of the session that is established here, or is to be; 0 for one that does not exist yet.
        timeout: the session timeout granted here, in seconds.
        client_open, server_open: whether that end is open.
    """

    def __init__(
        self,
        world: World,
        link: Link,
        process: Process,
        server: int,
        *,
        to_server: Callable[[Channel, Sequence[Up]], None],
        to_client: Callable[[Channel, Sequence[Down]], None],
    ) -> None:
        self.process = process
        self.server = server
        self.session = 0
        self.timeout: float = 0.0
        self.client_open: bool = True
        self.server_open: bool = True
        self._link = link
        self._to_server = to_server
        self._to_client = to_client
        link.channels[self] = None
        self.up: Pipe[Up] = Pipe(world, link, lambda: link.to_cut, self._arrive_up)
        self.down: Pipe[Down] = Pipe(world, link, lambda: link.from_cut, self._arrive_down)

    def send_up(self, message: Up) -> None:
        if self.client_open:
            self.up.put(message)

    def send_down(self, message: Down) -> None:
        self.down.put(message)

    def close_client_end(self) -> None:
        """Close the client's end. Messages sent before still arrive."""
        if self.client_open:
            self.up.put(None)
            self.client_open = False
            self._forget()

    def close_server_end(self) -> None:
        """Close the server's end. Messages sent before still arrive, but messages that arrive from now on are lost."""
        if self.server_open:
            self.down.put(None)
            self.server_open = False
            self._forget()

    def _arrive_up(self, messages: Sequence[Up]) -> None:
        if self.server_open:
            self._to_server(self, messages)
        self._forget()

    def _arrive_down(self, messages: Sequence[Down]) -> None:
        if self.process.dead:
            self.close_client_end()
        elif self.client_open:
            self.process.call(self._to_client, self, messages)
        self._forget()

    def _forget(self) -> None:
        """Leave the link once nothing more can arrive at either end."""
        ends = self.client_open or not self.up.empty, self.server_open or not self.down.empty
        if not any(ends):
            self._link.channels.pop(self, None)
