"""SimulatedConnection: a `Connection` to a simulated ensemble that behaves like the one on kazoo.

It does the same as kazoo at the same times. It tries the servers in a random order, and the next one when a connection
breaks. It waits longer after each round. It pings a server only if it has sent nothing else for a third of the session
timeout, and drops the connection if the ping is not answered.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import trio

from metafora_trio_zookeeper._connection import (
    Check,
    ConnectionState,
    Done,
    Reply,
    WriteOp,
)
from metafora_trio_zookeeper._connection_base import ConnectionBase, Established

from ._network import Answer, Channel, Down, Event, Hello, Kind, Link, Request, Welcome

if TYPE_CHECKING:
    from metafora_trio.testing.simulation import Process, World

__all__ = ["Servers", "SimulatedConnection"]

_FIRST_DELAY, _GROWTH = 0.05, 1.5
_JITTER = (0.6, 1.4)
_LEAST_JITTER, _MOST_JITTER = 0.01, 0.4
_EXACT = 1e-9


class Servers(Protocol):
    """The servers that a connection can try, by number, and the links to them."""

    @property
    def numbers(self) -> Sequence[int]: ...

    def link(self, process: Process, server: int) -> Link:
        """Return the link between a process and a server."""
        ...

    def open_channel(
        self, process: Process, server: int, to_client: Callable[[Channel, Sequence[Down]], None]
    ) -> Channel:
        """Open a TCP connection from a process to a server; `to_client` takes the server's messages."""
        ...

    def refuses(self, server: int) -> bool:
        """Return whether nothing listens at a server's port."""
        ...


class SimulatedConnection(ConnectionBase[Request]):
    """One session on a `SimulatedZooKeeper`, which makes it; see `Connection`."""

    def __init__(
        self,
        world: World,
        process: Process,
        servers: Servers,
        session_timeout: float,
        rng: random.Random,
    ) -> None:
        super().__init__()
        self.process = process
        self._world = world
        self._servers = servers
        self.received: int = 0
        self._rng = rng
        self._asked = session_timeout
        self._opened_at = -math.inf
        self._inbox: deque[tuple[Callable[[Any, Any], None], Any, Any]] = deque()
        # The connection that is open or being made, and the state of the search for the next.
        self._channel: Channel | None = None
        self._stopped = False
        self._round: list[int] = []
        self._rounds = 0
        self._avoid = 0
        self._connect_timeout = max(0.2, min(1.0, session_timeout / (4 * len(servers.numbers))))
        self._patience = self._connect_timeout
        self._last_zxid = 0
        self._last_sent = 0.0
        self._ping: Request | None = None

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self._request(Request(Kind.TRANSACT, tuple(ops)), done)

    def read(self, paths: Sequence[str], done: Done) -> None:
        self._request(Request(Kind.READ, tuple(paths)), done)

    def children(self, path: str, done: Done) -> None:
        self._request(Request(Kind.CHILDREN, path), done)

    def add_watch(self, path: str, done: Done) -> None:
        self._request(Request(Kind.ADD_WATCH, path), done)

    def exists(self, paths: Sequence[str], done: Done) -> None:
        self._request_each([Request(Kind.EXISTS, path) for path in paths], done)

    def stat(self, path: str, watch: bool, done: Done) -> None:
        """Read one znode's full stat (a `Znode`), or fail with `NO_NODE`. Not part of `Connection`.

        This exists to show a ZooKeeper bug: a one-shot watch for the next event of `path` replaces a recursive watch at
        the same path (ZOOKEEPER-4466).
        """
        self._request(Request(Kind.STAT, (path, watch)), done)

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        self._request(Request(Kind.TRANSACT, (Check(path),), stamp), done)

    def drop(self) -> None:
        channel = self._channel
        if self.state is ConnectionState.CONNECTED and channel is not None and channel.client_open:
            self._avoid = channel.server
            channel.close_client_end()
            self._post(self._broken, channel, None)

    def send_from_thread(self, ops: Sequence[WriteOp]) -> None:
        """See `Connection`. Simulated processes have no other threads; this one sends only while connected."""
        if self.state is ConnectionState.CONNECTED and self._channel is not None:
            self._transmit(Request(Kind.TRANSACT, tuple(ops)))

    def halt_from_thread(self, reason: str) -> None:
        self.halted = reason
        self._halt()
        self._post(self._set_state, ConnectionState.CLOSED, None)

    # ---- requests

    def _start(self) -> None:
        self._later(0.0, self._attempt)

    async def _stop(self) -> None:
        self._halt()
        await trio.lowlevel.checkpoint()

    def _transmit(self, request: Request) -> None:
        assert self._channel is not None
        self._last_sent = self._clock
        self._channel.send_up(request)

    def _transmit_close(self) -> None:
        self._transmit(Request(Kind.CLOSE))

    # ---- receiving; runs in the process

    def receive(self, channel: Channel, messages: Sequence[Down]) -> None:
        """Take the messages that arrive together on a connection."""
        self.received += len(messages)
        for message in messages:
            if isinstance(message, Answer) and message.request.stamp is not None and isinstance(message.result, Reply):
                self._prove(message.request.stamp)
            self._inbox.append((self._take, channel, message))
        self._drain()

    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Queue a call behind everything that has arrived; it is never made from inside the present call."""
        self._inbox.append((call, first, second))
        self._world.after(0.0, self.process.call, self._drain)

    def _drain(self) -> None:
        while self._inbox:
            call, first, second = self._inbox.popleft()
            call(first, second)

    def _take(self, channel: Channel, message: Down) -> None:
        if channel is not self._channel or not channel.client_open:
            return
        if isinstance(message, Event):
            assert self._sink is not None
            self._sink.on_event(message.type, message.path)
        elif isinstance(message, Answer):
            self._on_answer(message)
        elif message is None:
            self._broken(channel, None)
        elif message.session:
            self._on_established(channel, message)
        else:
            self._halt()
            self._set_state(ConnectionState.EXPIRED)

    def _on_answer(self, answer: Answer) -> None:
        request = answer.request
        if request is self._ping:
            self._ping = None
            return
        # Like kazoo, from replies only, not from events and pings.
        self._last_zxid = answer.zxid
        if request.kind is Kind.CLOSE:
            self._halt()
            self._set_state(ConnectionState.CLOSED)
        else:
            self._deliver(request, answer.result)

    def _on_established(self, channel: Channel, welcome: Welcome) -> None:
        self._rounds = 0
        self._patience = self._connect_timeout
        self._last_sent = self._clock
        self._ping = None
        self._watch_idleness(channel, welcome.timeout)
        server = f"zk{channel.server}:2181"
        established = Established(self._opened_at, self.number + 1, server, welcome.timeout, welcome.session)
        self._set_state(ConnectionState.CONNECTED, established)

    # ---- connecting, which kazoo does in its thread

    def _later(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self._world.after(seconds, self._due, self._clock + seconds, call, args)

    def _due(self, when: float, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        process = self.process
        if process.frozen:
            process.call(self._due, when, call, args)  # after the thaw
        elif (left := when - self._clock) > _EXACT:
            self._later(left, call, *args)  # the machine was suspended meanwhile
        elif not (process.dead or process.ended):
            call(*args)

    @property
    def _clock(self) -> float:
        """The time by which kazoo's thread goes, which stands still while the machine is suspended."""
        return self._world.now - self.process.suspended

    def _halt(self) -> None:
        """Break the connection and make no other."""
        self._stopped = True
        if self._channel is not None:
            self._channel.close_client_end()
            self._channel = None

    def _broken(self, channel: Channel, _: None) -> None:
        if channel is not self._channel:
            return
        channel.close_client_end()
        self._channel = None
        if self.state is ConnectionState.CONNECTED:
            self._set_state(ConnectionState.DISCONNECTED)
        self._next()

    def _next(self) -> None:
        """Try the next server, or wait for the next round."""
        if self._round:
            self._attempt()
        else:
            delay = min(_FIRST_DELAY * _GROWTH**self._rounds, self._asked / 10)
            self._rounds += 1
            self._later(delay * self._rng.uniform(*_JITTER), self._attempt)

    def _attempt(self) -> None:
        if self._stopped or self._channel is not None:
            return
        if not self._round:
            numbers = self._servers.numbers
            self._round = self._rng.sample(numbers, len(numbers))
        number = self._round.pop()
        if number == self._avoid:
            self._avoid = 0
            self._next()
            return
        link, refused = self._servers.link(self.process, number), self._servers.refuses(number)
        if link.to_cut or (refused and link.from_cut):
            self._later(self._connect_timeout, self._next)
        elif refused:
            self._later(2 * link.latency, self._next)
        else:
            # A server that accepts the connection but stays silent gets more time at each attempt.
            self._channel = channel = self._servers.open_channel(self.process, number, self.receive)
            self._opened_at = self.process.time
            channel.send_up(Hello(self.session_id, self._last_zxid, self._asked))
            self._later(self._patience, self._give_up, channel)
            self._patience = min(self._patience * _GROWTH, max(self._asked, self._connect_timeout))

    def _give_up(self, channel: Channel) -> None:
        if channel is self._channel and self.state is not ConnectionState.CONNECTED:
            self._broken(channel, None)

    # ---- pings

    def _watch_idleness(self, channel: Channel, timeout: float) -> None:
        patience = timeout / 3 - self._rng.uniform(_LEAST_JITTER, min(_MOST_JITTER, timeout / 6))
        self._later(max(0.0, self._last_sent + patience - self._clock), self._on_idle, channel, patience)

    def _on_idle(self, channel: Channel, patience: float) -> None:
        if channel is not self._channel:
            return
        if self._clock >= self._last_sent + patience:
            if self._ping is not None:
                self.process.call(self._broken, channel, None)
                return
            self._ping = Request(Kind.PING)
            self._transmit(self._ping)
        self._watch_idleness(channel, self.session_timeout)
