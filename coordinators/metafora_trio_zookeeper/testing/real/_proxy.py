"""TcpProxy: holds bytes back, delays them, slows them down, and resets or refuses connections.

Proxies run in a separate thread with its own Trio loop (`ProxyLoop`). So the same proxy serves a Trio test, a script
without Trio, and an ensemble started by either, and it keeps running while the program under test blocks. Its methods
are plain calls from any thread and have taken effect when they return.

Two differences from a real network: a connection is accepted before its target is reached, and bytes that were held
are always delivered once the link passes them again (TCP would retransmit them).
"""

from __future__ import annotations

import math
import queue
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import outcome
import trio

from metafora_trio.contract import RepeatedEvent

__all__ = ["ProxyLoop", "TcpProxy"]

T = TypeVar("T")

_RETRY = 0.02
_PACKET = 16_384
"""Bytes that a slow link carries at a time."""
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Listens at one address and forwards its connections to one target. `ProxyLoop.open` makes it."""

    def __init__(self, loop: ProxyLoop, target: tuple[str, int], patience: float = 0.0) -> None:
        self._loop = loop
        self._target = target
        self._patience = patience
        self._held = {"up": False, "down": False}
        self._refusing = False
        self._latency = 0.0
        self._rate = math.inf
        self._free_at = {"up": 0.0, "down": 0.0}
        self._changed = RepeatedEvent()
        self._connections: set[trio.CancelScope] = set()
        self._scope = trio.CancelScope()
        self.host: str = ""
        self.port: int = 0

    @property
    def address(self) -> str:
        """`host:port` to connect to."""
        return f"{self.host}:{self.port}"

    def cut(self, *, up: bool = True, down: bool = True, refuse: bool = False) -> None:
        """Hold the bytes to the target (`up`) or to its client (`down`); keep the connections open.

        New connections are accepted but stay silent. If `refuse` is true, they are reset at once.
        """
        self._set(up, down, refuse)

    def hold_replies(self) -> None:
        """Pass requests and hold replies. A later `drop_all` loses those replies."""
        self._set(False, True, False)

    def heal(self) -> None:
        """Pass all bytes, including those held so far, and accept connections."""
        self._set(False, False, False)

    def drop_all(self) -> int:
        """Reset all connections; held bytes are lost. Return how many connections there were."""

        def drop() -> int:
            for scope in self._connections:
                scope.cancel()
            return len(self._connections)

        return self._loop.call(drop)

    def delay(self, seconds: float) -> None:
        """Deliver everything `seconds` later, in each direction."""

        def change() -> None:
            self._latency = seconds

        self._loop.call(change)

    def limit(self, bytes_per_second: float) -> None:
        """Carry at most so many bytes a second in each direction, for all connections together. Infinity ends it.

        What the link has no time for yet waits, without a bound, as in a router with a large buffer."""

        def change() -> None:
            self._rate = bytes_per_second

        self._loop.call(change)

    def connections(self) -> int:
        """Return the number of connections."""
        return self._loop.call(lambda: len(self._connections))

    def close(self) -> None:
        """Stop listening and reset all connections."""
        self._loop.call(self._scope.cancel)

    def _set(self, up: bool, down: bool, refuse: bool) -> None:
        def change() -> None:
            self._held["up"], self._held["down"], self._refusing = up, down, refuse
            self._changed.set()

        self._loop.call(change)

    async def _serve(self, address: tuple[str, int], *, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            (listener,) = await trio.open_tcp_listeners(address[1], host=address[0])
            bound = listener.socket.getsockname()
            self.host, self.port = bound[0], bound[1]
            task_status.started()
            await trio.serve_listeners(self._carry, [listener])

    async def _carry(self, client: trio.SocketStream) -> None:
        if self._refusing:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            await trio.aclose_forcefully(client)
            return
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._wait_passing("up")
                server = await self._connect()
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, "up")
                    nursery.start_soon(self._pump, server, client, "down")
            except* (OSError, trio.BrokenResourceError):
                pass  # one end is gone, so close the other
            finally:
                self._connections.discard(scope)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                await trio.aclose_forcefully(client)

    async def _connect(self) -> trio.SocketStream:
        give_up = trio.current_time() + self._patience
        while True:
            try:
                return await trio.open_tcp_stream(*self._target)
            except OSError:
                if trio.current_time() >= give_up:
                    raise
            await trio.sleep(_RETRY)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, direction: str) -> None:
        """Carry bytes one way. Keep reading while they are held or delayed, so that the source is not slowed."""
        send, receive = trio.open_memory_channel[tuple[float, bytes | bytearray]](math.inf)

        async def take() -> None:
            async with send:
                async for data in source:
                    send.send_nowait((trio.current_time() + self._latency, data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            async for due, data in receive:
                await trio.sleep_until(due)
                for start in range(0, len(data), _PACKET):
                    packet = data[start : start + _PACKET]
                    await self._wait_carried(direction, len(packet))
                    await self._wait_passing(direction)
                    await sink.send_all(packet)
            await self._wait_passing(direction)
            await sink.send_eof()

    async def _wait_carried(self, direction: str, size: int) -> None:
        """Wait for as long as a link of this rate takes to carry a packet, after those before it."""
        self._free_at[direction] = max(self._free_at[direction], trio.current_time()) + size / self._rate
        await trio.sleep_until(self._free_at[direction])

    async def _wait_passing(self, direction: str) -> None:
        while self._held[direction]:
            await self._changed.wait()


class ProxyLoop:
    """The thread in which proxies run. A context manager; on exit the thread ends, with all its proxies."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), name="proxies", daemon=True)
        self._nursery: trio.Nursery
        self._token: trio.lowlevel.TrioToken

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call(lambda: self._nursery.cancel_scope.cancel())
        self._thread.join()

    def open(
        self, host: str, port: int, *, listen: tuple[str, int] = ("127.0.0.1", 0), patience: float = 0.0
    ) -> TcpProxy:
        """Start a proxy to `host:port`.

        Args:
            listen: where to listen; port 0 means any free one.
            patience: seconds that an accepted connection may wait for a target that does not listen yet. A real network
                would refuse the connection, and the client would try again.

        Raises:
            OSError: the listening address is taken.
        """
        done: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

        async def start() -> None:
            try:
                await self._nursery.start(proxy._serve, listen)
            except OSError as error:
                done.put(error)
            else:
                done.put(None)

        proxy = self.call(lambda: TcpProxy(self, (host, port), patience))
        self.call(lambda: self._nursery.start_soon(start))
        if (error := done.get()) is not None:
            raise error
        return proxy

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the loop and return its result. May be called from any other thread.

        `trio.from_thread` cannot be used, because it refuses to run in the thread of another Trio loop.
        """
        done: queue.SimpleQueue[outcome.Outcome[T]] = queue.SimpleQueue()

        self._token.run_sync_soon(lambda: done.put(outcome.capture(function)))
        return done.get().unwrap()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._started.set()
            await trio.sleep_forever()
