"""TrioHandler: runs kazoo's connection loop in one thread, on a buffered socket, with a wake-up that never blocks.

It implements kazoo's documented seam (`kazoo.interfaces.IHandler`) as far as the connection loop uses it. It runs only
the loop of one client, in one thread, and supports none of kazoo's recipes.

The rules it keeps:

* **A request is sent on the connection it was meant for, or never.** Requests wait in the outbox with the number of
  their connection. Between two frames, the loop takes them from there and discards those with an older number. (One
  meant for `ANY_CONNECTION` is sent on the present connection or, if there is none, on the next.)
* **Submitting never blocks.** It appends to a deque and, if the loop sleeps, writes one byte to a non-blocking socket
  pair.
* **The loop sleeps only when it has nothing to do**: all frames are read and all requests are written.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kazoo.handlers.threading import KazooTimeoutError

from .buffered_socket import BufferedSocket

__all__ = ["ANY_CONNECTION", "TrioHandler"]

ANY_CONNECTION = 0
"""In place of a connection's number: the present connection, or else the next."""

_PATIENCE_GROWTH = 1.5
_LOOK_AROUND = 64


class _Wake:
    """Both ends of kazoo's socket pair, as one object.

    kazoo sends a byte for every request it queues and takes one for every request it writes, so a counter suffices.
    The real sockets only end a sleep.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.queued = 0

    def fileno(self) -> int:
        return self._reader.fileno()

    def send(self, data: bytes) -> int:
        self.queued += 1
        return 1

    def recv(self, size: int) -> bytes:
        self.queued -= 1
        return b"\0"

    def ring(self) -> None:
        """End the loop's sleep. Never blocks: if the pair is full, the loop is being woken already. Does nothing if the
        connection has just been closed, which another thread cannot know."""
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(1024)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class TrioHandler:
    """The handler of one kazoo client.

    Args:
        admit: puts a request into kazoo's own queue; called in kazoo's thread.
        idle: called in kazoo's thread when what it has read should be passed on: before the loop sleeps, and
            occasionally while it is busy.
        alive: called in kazoo's thread when something was received, even if it is only a part of a long reply.
        ended: called in kazoo's thread, as the last thing, when its loop has ended.
        connect_timeout: seconds to wait for one server's TCP (and TLS) handshake, and at first also for its answer to
            the session's first message. The latter wait grows with each failure, up to `patience`. Otherwise an
            overloaded server would never be reached.
        patience: see `connect_timeout`; seconds.
        context: for TLS, or None.
    """

    # Read by kazoo.
    name = "trio"
    timeout_exception = KazooTimeoutError
    sleep_func = staticmethod(time.sleep)
    event_object = staticmethod(threading.Event)
    lock_object = staticmethod(threading.Lock)
    rlock_object = staticmethod(threading.RLock)
    running = True

    def __init__(
        self,
        *,
        admit: Callable[[Any], None],
        idle: Callable[[], None],
        alive: Callable[[], None],
        ended: Callable[[], None],
        connect_timeout: float,
        patience: float,
        context: ssl.SSLContext | None,
    ) -> None:
        self._admit = admit
        self._idle = idle
        self._alive = alive
        self._ended = ended
        self._connect_timeout = connect_timeout
        self._patience = connect_timeout
        self._patience_limit = max(patience, connect_timeout)
        self._context = context
        self._outbox: deque[tuple[int, Any]] = deque()
        self._wake = _Wake()
        self._asleep = False
        self._turn = 0
        self._socket: BufferedSocket | None = None
        self._avoid: Any = None
        self._address: Any = None
        self._connected_at = 0.0
        self._closed = False
        self._received_before = 0
        self.number = 0
        self.received = 0
        self.server = ""

    # ---- called from Trio

    def submit(self, number: int, request: Any) -> None:
        """Send `request` on connection `number`, or never. Never blocks. May be called from any thread."""
        self._outbox.append((number, request))
        if self._asleep:
            self._asleep = False
            self._wake.ring()

    def drop(self, number: int) -> None:
        """Break connection `number` if it is the present one, and skip its server once."""
        if number == self.number and self._socket is not None:
            self._avoid = self._address
            self._socket.shutdown()

    def close(self) -> None:
        """Break the connection and make no other. May be called from any thread."""
        self._closed = True
        if self._socket is not None:
            self._socket.shutdown()

    @property
    def closed(self) -> bool:
        return self._closed

    def free(self) -> None:
        """Close the wake-up sockets. Call this once the loop has ended."""
        self._wake.close()

    # ---- called in kazoo's thread

    def connected(self) -> tuple[float, int, str, float, int]:
        """Note that a new connection is established.

        Returns:
            The time at which its socket was connected (`time.perf_counter`), its number, its server, the negotiated
            session timeout, and the session's id.
        """
        assert self._socket is not None
        assert self._socket.session is not None, "kazoo reads the first frame before it reports a connection"
        self.number += 1
        self._wake.queued = 0  # kazoo has dropped its queue
        self._patience = self._connect_timeout
        return (self._connected_at, self.number, self.server, *self._socket.session)

    def take_frame(self, start: bytes) -> bytes | None:
        """See `BufferedSocket.take_frame`."""
        return None if self._socket is None else self._socket.take_frame(start)

    def start(self) -> None:
        """Do nothing: the only thread is the loop's, which `spawn` starts."""

    def stop(self) -> None:
        """Do nothing, see `start`."""

    def spawn(self, func: Callable[[], None]) -> threading.Thread:
        """Start the connection loop's thread. It is a daemon, because it may be stuck in a name lookup."""

        def run() -> None:
            try:
                func()
            finally:
                self._ended()

        thread = threading.Thread(target=run, name="zookeeper", daemon=True)
        thread.start()
        return thread

    def create_socket_pair(self) -> tuple[_Wake, _Wake]:
        return self._wake, self._wake

    def create_connection(self, address: Any, hostname: str, **options: Any) -> BufferedSocket:
        """Connect to one server. kazoo's timeout (the whole session's) and TLS options are ignored; the constructor
        was given ours."""
        if self._closed:
            raise ConnectionAbortedError("the connection is being closed")
        if address == self._avoid:
            self._avoid = None
            raise ConnectionRefusedError("this server was dropped a moment ago; trying another first")
        raw = socket.create_connection(address, self._connect_timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                raw = self._context.wrap_socket(raw, server_hostname=hostname)
        except OSError:
            raw.close()
            raise
        self._address = address
        self.server = f"[{hostname}]:{address[1]}" if ":" in hostname else f"{hostname}:{address[1]}"
        self._patience = min(self._patience * _PATIENCE_GROWTH, self._patience_limit)
        self._connected_at = time.perf_counter()
        self._socket = BufferedSocket(raw)
        if self._closed:
            self._socket.shutdown()  # close() may have been called before `_socket` was set
        return self._socket

    def select(
        self, rlist: Sequence[Any], wlist: Sequence[Any], xlist: Sequence[Any], timeout: float | None = None
    ) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Wait as kazoo asks: for space to write, for the rest of a frame, or (in its main loop) for anything to do."""
        if wlist:
            return [], wlist, []
        sock: BufferedSocket = rlist[0]
        if len(rlist) == 1:
            if sock.session is None:
                timeout = self._patience if timeout is None else min(timeout, self._patience)
            self._sleep(sock, sock.readable, timeout)
            return ([sock] if sock.readable() else []), [], []
        self._admit_requests()
        self._turn += 1
        busy = sock.has_frame() or self._wake.queued > 0
        if not busy:
            self._sleep(sock, self._anything_to_do, timeout)
        elif self._turn % _LOOK_AROUND == 0:
            # Poll now and then. Otherwise an endless stream of requests would starve both receiving and sending.
            self._sleep(sock, sock.has_frame, 0.0)
        if self.received != self._received_before:
            self._received_before = self.received
            self._alive()
        ready: list[Any] = [sock] if sock.has_frame() else []
        if self._wake.queued > 0:
            ready.append(self._wake)
        return ready, [], []

    def _admit_requests(self) -> None:
        outbox = self._outbox
        while outbox:
            number, request = outbox.popleft()
            if number == self.number or number == ANY_CONNECTION:
                self._admit(request)

    def _anything_to_do(self) -> bool:
        assert self._socket is not None
        if self._outbox:
            self._admit_requests()
        return self._wake.queued > 0 or self._socket.has_frame()

    def _sleep(self, sock: BufferedSocket, awake: Callable[[], bool], timeout: float | None) -> None:
        """Send the buffered bytes and fetch what arrives, until `awake()` or for `timeout` seconds."""
        self._idle()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            sock.flush()
            self._asleep = True  # set before the check, so that a request that comes after the check rings
            if awake():
                break
            rest = None if end is None else max(0.0, end - time.monotonic())
            events = self._poll(sock, rest)
            if self._wake.fileno() in events:
                self._wake.hush()
            if sock.fileno() in events:
                self.received += sock.fill()
            if awake() or rest == 0.0:
                break
        self._asleep = False

    def _poll(self, sock: BufferedSocket, timeout: float | None) -> dict[int, int]:
        poller = select.poll()  # no system call, and no limit on the number of descriptors
        poller.register(self._wake, select.POLLIN)
        poller.register(sock, select.POLLIN | select.POLLOUT if sock.unsent else select.POLLIN)
        return dict(poller.poll(None if timeout is None else timeout * 1000))
