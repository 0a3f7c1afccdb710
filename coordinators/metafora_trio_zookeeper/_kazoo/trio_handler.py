"""What kazoo's connection loop runs on: one thread, a buffered socket, a wake-up that never blocks.

This is kazoo's documented seam (`kazoo.interfaces.IHandler`), as far as the connection loop uses it. Only the
loop of one client is run, in the only thread; nothing here is for kazoo's recipes.

The rules it keeps:

* **A request travels on the connection it was meant for, or not at all.** Requests wait in the outbox with the
  number of their connection; the loop takes them over itself, between two frames, and discards those of an
  older number.
* **Submitting never blocks.** Appending to a deque, and at most one byte into a non-blocking socket pair when
  the loop sleeps.
* **The loop sleeps only when it has nothing to do**: all frames read, all requests written.
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

__all__ = ["TrioHandler"]

_PATIENCE_GROWTH = 1.5
_LOOK_AROUND = 64


class _Wake:
    """Both ends of what kazoo calls its socket pair.

    kazoo sends a byte for every request it queued and takes one for every request it wrote: that is a counter.
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
        """End the sleep of the loop. Never blocks: a full pair is awake already."""
        with contextlib.suppress(BlockingIOError):
            self._writer.send(b"\0")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(1024)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class TrioHandler:
    """One kazoo client's handler.

    Args:
        admit: puts a request into kazoo's own queue; called in kazoo's thread.
        idle: called in kazoo's thread when what was read should be passed on: before the loop sleeps, and
            now and then while it does not.
        ended: called in kazoo's thread when its loop has ended, as the last thing.
        connect_timeout: seconds to wait for one server's TCP (and TLS) handshake, and for its answer to ours
            at first; the latter grows with each failure, to `patience`, as an overloaded server would never
            be reached else.
        patience: seconds, see there.
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
        ended: Callable[[], None],
        connect_timeout: float,
        patience: float,
        context: ssl.SSLContext | None,
    ) -> None:
        self._admit = admit
        self._idle = idle
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
        self.number = 0
        self.server = ""

    # ---- called from Trio

    def submit(self, number: int, request: Any) -> None:
        """Send `request` on connection `number`, or never. Never blocks."""
        self._outbox.append((number, request))
        if self._asleep:
            self._asleep = False
            self._wake.ring()

    def drop(self, number: int) -> None:
        """Break connection `number` if it is the present one, and pass over its server once."""
        if number == self.number and self._socket is not None:
            self._avoid = self._address
            self._socket.shutdown()

    def close(self) -> None:
        """Break the connection and make no other. From any thread."""
        self._closed = True
        if self._socket is not None:
            self._socket.shutdown()

    @property
    def closed(self) -> bool:
        return self._closed

    def free(self) -> None:
        """Give back what the loop does not need any more, once it has ended."""
        self._wake.close()

    # ---- called in kazoo's thread

    def connected(self) -> tuple[float, int, str, float, int]:
        """Note that a new connection is established.

        Returns:
            when its socket was connected (`time.perf_counter`), its number, its server, the negotiated session timeout,
            and the session's id.
        """
        assert self._socket is not None
        assert self._socket.session is not None, "kazoo has read the first frame before it says so"
        self.number += 1
        self._wake.queued = 0  # kazoo has dropped what it had queued
        self._patience = self._connect_timeout
        return (self._connected_at, self.number, self.server, *self._socket.session)

    def take_frame(self, start: bytes) -> bytes | None:
        """See `BufferedSocket.take_frame`."""
        return None if self._socket is None else self._socket.take_frame(start)

    def start(self) -> None:
        """Nothing to start: there is no thread but the loop's."""

    def stop(self) -> None:
        """Nothing to stop, see `start`."""

    def spawn(self, func: Callable[[], None]) -> threading.Thread:
        """Start the connection loop's thread; a daemon, as it may be in a name look-up that does not end."""

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
        """Connect to one server. kazoo's timeout (the whole session's) and TLS options are not used, as ours
        are set already."""
        if self._closed:
            raise ConnectionAbortedError("the connection is being closed")
        if address == self._avoid:
            self._avoid = None
            raise ConnectionRefusedError("this server was given up a moment ago, trying another first")
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
            self._socket.shutdown()  # close() may have come between
        return self._socket

    def select(
        self, rlist: Sequence[Any], wlist: Sequence[Any], xlist: Sequence[Any], timeout: float | None = None
    ) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """As kazoo calls it: to write; for the rest of a frame; or, in its main loop, for anything to do."""
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
            # An endless stream of requests must starve neither what arrives nor what is to leave.
            self._sleep(sock, sock.has_frame, 0.0)
        ready: list[Any] = [sock] if sock.has_frame() else []
        if self._wake.queued > 0:
            ready.append(self._wake)
        return ready, [], []

    def _admit_requests(self) -> None:
        outbox = self._outbox
        while outbox:
            number, request = outbox.popleft()
            if number == self.number:
                self._admit(request)

    def _anything_to_do(self) -> bool:
        assert self._socket is not None
        if self._outbox:
            self._admit_requests()
        return self._wake.queued > 0 or self._socket.has_frame()

    def _sleep(self, sock: BufferedSocket, awake: Callable[[], bool], timeout: float | None) -> None:
        """Send what is to be sent and fetch what arrives, until `awake()` or for `timeout` seconds."""
        self._idle()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            sock.flush()
            self._asleep = True  # before the look: a request that comes after it then rings
            if awake():
                break
            rest = None if end is None else max(0.0, end - time.monotonic())
            events = self._poll(sock, rest)
            if self._wake.fileno() in events:
                self._wake.hush()
            if sock.fileno() in events:
                sock.fill()
            if awake() or rest == 0.0:
                break
        self._asleep = False

    def _poll(self, sock: BufferedSocket, timeout: float | None) -> dict[int, int]:
        poller = select.poll()  # no system call, and no limit on the number of descriptors
        poller.register(self._wake, select.POLLIN)
        poller.register(sock, select.POLLIN | select.POLLOUT if sock.unsent else select.POLLIN)
        return dict(poller.poll(None if timeout is None else timeout * 1000))
