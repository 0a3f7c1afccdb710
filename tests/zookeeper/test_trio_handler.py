"""The handler's part of kazoo's loop, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from metafora_trio_zookeeper._kazoo.buffered_socket import BufferedSocket
from metafora_trio_zookeeper._kazoo.trio_handler import TrioHandler


class Loop:
    """kazoo's loop, one turn at a time."""

    def __init__(self) -> None:
        self.signs_of_life = 0
        self.handler = TrioHandler(
            admit=lambda request: None,
            idle=lambda: None,
            alive=self._on_alive,
            ended=lambda: None,
            connect_timeout=1.0,
            patience=1.0,
            context=None,
        )
        self._wake, _ = self.handler.create_socket_pair()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.socket: BufferedSocket = self.handler.create_connection(listener.getsockname(), "localhost")
            self.server, _ = listener.accept()

    def turn(self) -> list[Any]:
        """Return what is ready after at most 50 ms."""
        ready, _, _ = self.handler.select([self.socket, self._wake], [], [], 0.05)
        return list(ready)

    def close(self) -> None:
        self.server.close()
        self.socket.close()
        self.handler.free()

    def _on_alive(self) -> None:
        self.signs_of_life += 1


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_bytes_of_a_frame_that_is_not_whole_are_a_sign_of_life(loop: Loop) -> None:
    assert loop.turn() == []
    assert loop.signs_of_life == 0
    for sent, signs in ((b"\0\0\0\7", 1), (b"", 1), (b"half", 2), (b"", 2)):
        loop.server.sendall(sent)
        assert loop.turn() == []
        assert loop.signs_of_life == signs
    loop.server.sendall(b"all")
    assert loop.turn() == [loop.socket]
