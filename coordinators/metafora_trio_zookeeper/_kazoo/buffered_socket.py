"""BufferedSocket: a socket with buffers in user space, for kazoo's loop.

kazoo makes several system calls for every frame. Here one call fetches everything that has arrived, and output is
collected until kazoo's loop is about to sleep. That takes half a system call per operation instead of 38.
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
    """The part of a socket's interface that kazoo uses, buffered both ways; plain TCP or TLS.

    Only kazoo's thread may use it, except for `shutdown`, which any thread may call.
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

        Read here from the first frame, because kazoo does not pass the timeout on.
        """
        if len(self._greeting) < _GREETING.size:
            return None
        _, _, timeout_ms, session_id = _GREETING.unpack(self._greeting)
        return timeout_ms / 1000, session_id

    @property
    def unsent(self) -> bool:
        """True while bytes wait for space in the system's send buffer."""
        return bool(self._unsent)

    def fileno(self) -> int:
        return self._raw.fileno()

    def setblocking(self, flag: bool) -> None:
        """Do nothing: the socket is always non-blocking, and kazoo asks for nothing else."""

    def pending(self) -> int:
        """Return the number of bytes that `recv` can return."""
        return len(self._received)

    def has_frame(self) -> bool:
        """Return whether the loop can read a whole frame, or the end of the stream, without waiting.

        kazoo must not start to read half a frame, or a TLS record without data: the read would block, and nothing
        could be sent until the rest has come.
        """
        received = self._received
        if len(received) < _LENGTH.size:
            return self._ended
        return self._ended or len(received) >= _LENGTH.size + _LENGTH.unpack_from(received)[0]

    def readable(self) -> bool:
        """Return whether `recv` can return bytes or report the end of the stream."""
        return bool(self._received) or self._ended

    def fill(self) -> int:
        """Fetch what has arrived, without waiting; return how many bytes. Raises OSError if the connection broke."""
        try:
            data = self._raw.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        if not data:
            self._ended = True
        elif len(self._greeting) < _GREETING.size:
            self._greeting += data[: _GREETING.size - len(self._greeting)]
        self._received += data
        return len(data)

    def recv(self, size: int) -> bytearray:
        """Return up to `size` buffered bytes. Call it only when `readable`; no bytes then mean the end."""
        data = self._received[:size]
        del self._received[:size]
        return data

    def take_frame(self, start: bytes) -> bytes | None:
        """Return the next frame without its length, or None unless it has arrived whole and begins with `start`."""
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
        """Buffer all of `data`; the next `flush` sends it."""
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Send as much as the system takes, without waiting. Raises OSError if the connection is broken."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._unsent:
                del self._unsent[: self._raw.send(self._unsent)]

    def shutdown(self) -> None:
        """Shut the connection down both ways, so that kazoo's loop finds it broken. May be called from any thread."""
        # The lock keeps `close` out: a descriptor closed in between may already belong to another file.
        with self._closing, contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: it drops its TLS state first, and a concurrent recv would then return
            # ciphertext as data.
            socket.socket.shutdown(self._raw, socket.SHUT_RDWR)

    def close(self) -> None:
        with self._closing:
            self._raw.close()
