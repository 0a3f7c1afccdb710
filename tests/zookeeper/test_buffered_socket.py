"""The buffered socket, on a pair of real ones."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from metafora_trio_zookeeper._kazoo.buffered_socket import BufferedSocket
from metafora_trio_zookeeper._kazoo.trio_handler import _Wake


@pytest.fixture
def pair() -> Iterator[tuple[BufferedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    buffered = BufferedSocket(ours)
    yield buffered, theirs
    buffered.close()
    theirs.close()


def frame(body: bytes) -> bytes:
    return struct.pack("!i", len(body)) + body


def test_ready_is_a_whole_frame(pair: tuple[BufferedSocket, socket.socket]) -> None:
    """Half a frame must not be reported to kazoo's loop, which would wait for the rest and send nothing until then."""
    buffered, server = pair
    sent = frame(b"body")
    for number, byte in enumerate(sent, 1):
        buffered.fill()
        assert not buffered.has_frame()
        server.send(bytes([byte]))
        buffered.fill()
        assert buffered.pending() == number
    assert buffered.has_frame()
    assert buffered.recv(4) == sent[:4]
    assert buffered.recv(100) == b"body"
    assert not buffered.readable()


def test_end(pair: tuple[BufferedSocket, socket.socket]) -> None:
    """Whole frames come first, then the end as an empty read."""
    buffered, server = pair
    server.sendall(frame(b"whole") + frame(b"half")[:-1])
    server.shutdown(socket.SHUT_WR)
    buffered.fill()
    buffered.fill()
    assert buffered.has_frame()
    assert buffered.recv(1000) == frame(b"whole") + frame(b"half")[:-1]
    assert buffered.has_frame()
    assert buffered.readable()
    assert buffered.recv(4) == b""


def test_take_frame(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, server = pair
    server.sendall(frame(b"event 1") + frame(b"event 2") + frame(b"reply") + frame(b"event 3")[:-1])
    buffered.fill()
    assert [buffered.take_frame(b"event") for _ in range(3)] == [b"event 1", b"event 2", None]
    assert buffered.take_frame(b"reply") == b"reply"
    assert buffered.take_frame(b"event") is None
    server.sendall(b"3")
    buffered.fill()
    assert buffered.take_frame(b"event") == b"event 3"


def test_greeting(pair: tuple[BufferedSocket, socket.socket]) -> None:
    """The negotiated values are read from the first frame, in however many pieces it comes."""
    buffered, server = pair
    greeting = frame(struct.pack("!iiq", 0, 4000, 77) + frame(b"password") + b"\0")
    for byte in greeting:
        assert buffered.session is None or buffered.pending() >= 20
        server.send(bytes([byte]))
        buffered.fill()
    server.sendall(b"x" * 100)
    buffered.fill()
    assert buffered.session == (4.0, 77)
    assert buffered.recv(len(greeting)) == greeting


def test_sending_never_waits(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, server = pair
    data = bytes(range(256)) * 40_000
    assert buffered.send(memoryview(data)) == len(data)
    buffered.flush()
    assert buffered.unsent
    received = b""
    while len(received) < len(data):
        received += server.recv(1 << 20)
        buffered.flush()
    assert received == data
    assert not buffered.unsent


def test_shutdown(pair: tuple[BufferedSocket, socket.socket]) -> None:
    """Bytes that had arrived are still read. A second shutdown, or one after the close, does no harm."""
    buffered, server = pair
    server.sendall(frame(b"last"))
    buffered.shutdown()
    buffered.shutdown()
    buffered.fill()
    assert buffered.recv(100) == frame(b"last")
    buffered.fill()
    assert buffered.has_frame()
    buffered.close()
    buffered.shutdown()


def test_a_late_wake_up_call_does_nothing() -> None:
    """The watchdog's thread cannot know that the connection has just been closed."""
    wake = _Wake()
    wake.ring()
    wake.close()
    wake.ring()
