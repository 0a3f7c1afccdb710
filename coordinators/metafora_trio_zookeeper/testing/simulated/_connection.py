"""The client's side of a simulated ensemble: the `Connection` protocol, as the adapter of kazoo keeps it.

What kazoo does, this does at the same times: it tries the servers in a random order, goes on with the next when a
connection breaks, waits longer and longer between rounds, pings a server only when nothing else was sent for a third of
the session timeout, and gives a connection up when the ping stays without an answer.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from metafora_trio_zookeeper._connection import (
    Check,
    ConnectionState,
    Done,
    ErrorCode,
    Reply,
    RequestError,
    Sink,
    WriteOp,
)

from ._network import Answer, Channel, Down, Event, Hello, Kind, Link, Request, Welcome

if TYPE_CHECKING:
    from metafora_trio.testing.simulation import Process, World

__all__ = ["Ensemble", "SimulatedConnection"]

_FINAL: Final = frozenset({ConnectionState.EXPIRED, ConnectionState.AUTH_FAILED, ConnectionState.CLOSED})
_FIRST_DELAY, _GROWTH = 0.05, 1.5
_JITTER = (0.6, 1.4)
_LEAST_JITTER, _MOST_JITTER = 0.01, 0.4


class Ensemble(Protocol):
    """The servers that a connection can try, by number, and the ways to them."""

    @property
    def numbers(self) -> Sequence[int]: ...

    def link(self, process: Process, server: int) -> Link:
        """Return the link between a process and a server."""
        ...

    def open_channel(
        self, process: Process, server: int, to_client: Callable[[Channel, Sequence[Down]], None]
    ) -> Channel:
        """Open a TCP connection from a process to a server; `to_client` takes what the server sends."""
        ...

    def refuses(self, server: int) -> bool:
        """Return whether nothing listens at a server's port."""
        ...


class SimulatedConnection:
    """One session on a `SimulatedZooKeeper`, which makes it.

    See `Connection` for what is not said here; only this class sets the attributes.
    """

    def __init__(
        self,
        world: World,
        process: Process,
        ensemble: Ensemble,
        session_timeout: float,
        rng: random.Random,
    ) -> None:
        self.process = process
        self._world = world
        self._ensemble = ensemble
        self._rng = rng
        self._asked = session_timeout
        self._sink: Sink | None = None
        self.state: ConnectionState = ConnectionState.DISCONNECTED
        self.number: int = 0
        self.session_id: int = 0
        self.session_timeout: float = 0.0
        self.server: str = ""
        self.proof: float = -math.inf
        self.connected_at: float = -math.inf
        self._opened_at = -math.inf
        # A dict for its order: requests fail in the order in which they were made.
        self._outstanding: dict[Request, None] = {}
        self._inbox: deque[tuple[Callable[[Any, Any], None], Any, Any]] = deque()
        self._changed = trio.Event()
        self._closing = False
        self._closed = trio.Event()
        # The connection that stands or is being made, and what is known of the ways to another.
        self._channel: Channel | None = None
        self._stopped = False
        self._round: list[int] = []
        self._rounds = 0
        self._avoid = 0
        self._connect_timeout = max(0.2, min(1.0, session_timeout / (4 * len(ensemble.numbers))))
        self._patience = self._connect_timeout
        self._last_zxid = 0
        self._last_sent = 0.0
        self._ping: Request | None = None

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    async def open(self, sink: Sink) -> None:
        if self._sink is not None:
            raise RuntimeError("opened already")
        self._sink = sink
        self._later(0.0, self._attempt)
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            if self._closing:
                await self._closed.wait()
                return
            self._closing = True
            try:
                if self.session_id and self.state not in _FINAL:
                    with trio.move_on_after(self.session_timeout):
                        await self._close_session()
                self._stop()
                if self.state not in _FINAL:
                    self._told(ConnectionState.CLOSED)
                await trio.lowlevel.checkpoint()
            finally:
                self._closed.set()

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self._send(Request(Kind.TRANSACT, tuple(ops), done))

    def read(self, paths: Sequence[str], done: Done) -> None:
        self._send(Request(Kind.READ, tuple(paths), done))

    def children(self, path: str, done: Done) -> None:
        self._send(Request(Kind.CHILDREN, path, done))

    def add_watch(self, path: str, done: Done) -> None:
        self._send(Request(Kind.ADD_WATCH, path, done))

    def exists(self, path: str, watch: bool, done: Done) -> None:
        """All of one znode's stat (a `Znode`), or `NO_NODE`; not part of the protocol.

        It is here for the trap: a one-shot watch for the next event of `path` itself takes the place of a recursive
        one at the same path (ZOOKEEPER-4466).
        """
        self._send(Request(Kind.EXISTS, (path, watch), done))

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        self._send(Request(Kind.TRANSACT, (Check(path),), done, stamp))

    def drop(self) -> None:
        channel = self._channel
        if self.state is ConnectionState.CONNECTED and channel is not None and channel.client_open:
            self._avoid = channel.server
            channel.close_client_end()
            self._post(self._broken, channel, None)

    # ---- requests and what becomes of them

    def _send(self, request: Request) -> None:
        self._outstanding[request] = None
        if self.state is ConnectionState.CONNECTED and not self._closing:
            self._put(request)
        else:
            self._post(self._deliver, request, self._loss())

    def _put(self, request: Request) -> None:
        assert self._channel is not None
        self._last_sent = self._world.now
        self._channel.send_up(request)

    def _deliver(self, request: Request, result: Reply | RequestError) -> None:
        if request in self._outstanding:
            del self._outstanding[request]
            request.done(result)

    def _loss(self) -> RequestError:
        expired = self.state is ConnectionState.EXPIRED
        return RequestError(ErrorCode.SESSION_EXPIRED if expired else ErrorCode.CONNECTION_LOSS)

    def _told(self, state: ConnectionState) -> None:
        # The state first, so that what a callback requests now is refused rather than lost.
        self.state = state
        if state is not ConnectionState.CONNECTED:
            self.server = ""
            outstanding, self._outstanding = self._outstanding, {}
            for request in outstanding:
                request.done(self._loss())
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        if self._sink is not None:
            self._sink.on_state(state)

    # ---- what arrives; runs in the process

    def receive(self, channel: Channel, messages: Sequence[Down]) -> None:
        """Take what arrives together on a connection."""
        for message in messages:
            if isinstance(message, Answer) and message.request.stamp is not None and isinstance(message.result, Reply):
                self.proof = max(self.proof, message.request.stamp)
            self._inbox.append((self._take, channel, message))
        self._drain()

    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Have a call made in its turn, and not from inside the present one."""
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
            self._stop()
            self._told(ConnectionState.EXPIRED)

    def _on_answer(self, answer: Answer) -> None:
        request = answer.request
        if request is self._ping:
            self._ping = None
            return
        # As kazoo does: of replies only, not of events and pings.
        self._last_zxid = answer.zxid
        if request.kind is Kind.CLOSE:
            self._stop()
            self._told(ConnectionState.CLOSED)
        else:
            self._deliver(request, answer.result)

    def _on_established(self, channel: Channel, welcome: Welcome) -> None:
        self.number += 1
        self.connected_at = self._opened_at
        self.session_id = welcome.session
        self.session_timeout = welcome.timeout
        self.server = f"zk{channel.server}:2181"
        self._rounds = 0
        self._patience = self._connect_timeout
        self._last_sent = self._world.now
        self._ping = None
        self._watch_idleness(channel)
        self._told(ConnectionState.CONNECTED)

    async def _close_session(self) -> None:
        """Ask the server to close the session; again on the next connection if this one breaks."""
        while self.state not in _FINAL:
            if self.state is ConnectionState.CONNECTED:
                self._put(Request(Kind.CLOSE, None, _nobody))
            await self._changed.wait()

    # ---- connecting; runs where kazoo's thread would

    def _later(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self._world.after(seconds, self._now, call, args)

    def _now(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.process.frozen:
            self.process.call(call, *args)  # after the thaw
        elif not (self.process.dead or self.process.ended):
            call(*args)

    def _stop(self) -> None:
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
            self._told(ConnectionState.DISCONNECTED)
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
            servers = self._ensemble.numbers
            self._round = self._rng.sample(servers, len(servers))
        number = self._round.pop()
        if number == self._avoid:
            self._avoid = 0
            self._next()
            return
        link, refused = self._ensemble.link(self.process, number), self._ensemble.refuses(number)
        if link.to_cut or (refused and link.from_cut):
            self._later(self._connect_timeout, self._next)
        elif refused:
            self._later(2 * link.latency, self._next)
        else:
            # A server that is connected to and stays silent is given more time at each attempt.
            self._channel = channel = self._ensemble.open_channel(self.process, number, self.receive)
            self._opened_at = self.process.time
            channel.send_up(Hello(self.session_id, self._last_zxid, self._asked))
            self._later(self._patience, self._give_up, channel)
            self._patience = min(self._patience * _GROWTH, max(self._asked, self._connect_timeout))

    def _give_up(self, channel: Channel) -> None:
        if channel is self._channel and self.state is not ConnectionState.CONNECTED:
            self._broken(channel, None)

    # ---- pings

    def _watch_idleness(self, channel: Channel) -> None:
        timeout = self.session_timeout
        patience = timeout / 3 - self._rng.uniform(_LEAST_JITTER, min(_MOST_JITTER, timeout / 6))
        self._later(max(0.0, self._last_sent + patience - self._world.now), self._on_idle, channel, patience)

    def _on_idle(self, channel: Channel, patience: float) -> None:
        if channel is not self._channel:
            return
        if self._world.now >= self._last_sent + patience:
            if self._ping is not None:
                self.process.call(self._broken, channel, None)
                return
            self._ping = Request(Kind.PING, None, _nobody)
            self._put(self._ping)
        self._watch_idleness(channel)


def _nobody(_: Reply | RequestError) -> None:
    """For requests whose reply only the connection itself wants."""
