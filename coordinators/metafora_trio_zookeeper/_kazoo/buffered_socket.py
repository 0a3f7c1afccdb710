"""A socket with buffers in user space, for kazoo's loop.

kazoo asks the system several times for every frame. Here one system call fetches all there is, and what
kazoo sends is collected until its loop is about to sleep: half a system call an operation instead of 38.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading

__all__ = ["BufferedSocket"]

_CHUNK = 1 << 18
_LENGTH = struct.Struct("!i")
_GREETING = struct.Struct("!iiiq")  # frame length, protocol version, session timeout (ms), session id


class BufferedSocket:
    """What kazoo uses of a socket, buffered both ways; plain TCP or TLS.

    Used by kazoo's thread only, except for `shutdown`, which any thread may call.
    """

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        self._raw = raw
        self._received = bytearray()
        self._unsent = bytearray()
        self._greeting = b""
        self._ended = False
        self._closing = threading.Lock()

    @property
    def session(self) -> tuple[float, int] | None:
        """The negotiated session timeout in seconds and the session's id, once the server has sent them.

        They are in the first frame; kazoo does not pass the timeout on.
        """
        if len(self._greeting) < _GREETING.size:
            return None
        _, _, timeout_ms, session_id = _GREETING.unpack(self._greeting)
        return timeout_ms / 1000, session_id

    @property
    def unsent(self) -> bool:
        """Whether something waits for room in the system's send buffer."""
        return bool(self._unsent)

    def fileno(self) -> int:
        return self._raw.fileno()

    def setblocking(self, flag: bool) -> None:
        """Always non-blocking; kazoo asks for that, too."""

    def pending(self) -> int:
        """How many bytes `recv` has at hand."""
        return len(self._received)

    def has_frame(self) -> bool:
        """Whether the loop can read a whole frame, or the end, without waiting.

        Half a frame, or a TLS record without data, must not catch kazoo in a blocking read: nothing could
        be sent until the rest has come.
        """
        received = self._received
        if len(received) < _LENGTH.size:
            return self._ended
        return self._ended or len(received) >= _LENGTH.size + _LENGTH.unpack_from(received)[0]

    def readable(self) -> bool:
        """Whether `recv` has something to say: bytes, or the end."""
        return bool(self._received) or self._ended

    def fill(self) -> None:
        """Fetch what has arrived; does not wait. Raises OSError when the connection is broken."""
        try:
            data = self._raw.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not data:
            self._ended = True
        elif len(self._greeting) < _GREETING.size:
            self._greeting += data[: _GREETING.size - len(self._greeting)]
        self._received += data

    def recv(self, size: int) -> bytearray:
        """At most `size` bytes of those at hand; none mean the end (see `readable`)."""
        data = self._received[:size]
        del self._received[:size]
        return data

    def take_frame(self, start: bytes) -> bytes | None:
        """The next frame, without its length, if it is at hand as a whole and begins with `start`."""
        received = self._received
        if not received.startswith(start, _LENGTH.size):
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
        if len(received) < end:
            return None
        frame = bytes(received[_LENGTH.size : end])
        del received[:end]
        return frame

    def send(self, data: bytes | memoryview) -> int:
        """Take all of `data`; it leaves with the next `flush`."""
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Send what the system takes now; does not wait. Raises OSError when the connection is broken."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._unsent:
                del self._unsent[: self._raw.send(self._unsent)]

    def shutdown(self) -> None:
        """End the connection both ways, so that kazoo's loop finds it broken. May be called from any thread."""
        # The lock: a descriptor closed meanwhile may already belong to another file.
        with self._closing, contextlib.suppress(OSError):
            # Not the method of SSLSocket: it forgets its TLS state first, and a concurrent recv would then
            # return ciphertext as data.
            socket.socket.shutdown(self._raw, socket.SHUT_RDWR)

    def close(self) -> None:
        with self._closing:
            self._raw.close()
