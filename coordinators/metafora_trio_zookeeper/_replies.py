"""Waiting for replies: turns callbacks, called in wire order, into something to `await`."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ._connection import Done, ErrorCode, Reply, RequestError

__all__ = ["Burst", "Slot", "ask", "is_broken"]

_BROKEN = (ErrorCode.CONNECTION_LOSS, ErrorCode.SESSION_EXPIRED)


def is_broken(error: RequestError) -> bool:
    """Return whether the connection broke: then the request may have been carried out."""
    return error.code in _BROKEN


class Slot:
    """The place for one reply of a burst: pass it as `done`."""

    __slots__ = ("_burst", "reply")

    def __init__(self, burst: Burst) -> None:
        self._burst = burst
        self.reply: Reply | None = None

    def __call__(self, reply: Reply | RequestError) -> None:
        if isinstance(reply, RequestError):
            self._burst.fail(reply)
        else:
            self.reply = reply
            self._burst.answer()

    @property
    def value(self) -> object:
        """The value of the reply; read it after `Burst.wait`."""
        assert self.reply is not None
        return self.reply.value


class Burst:
    """Replies to several pipelined requests.

    Args:
        heard: called at each successful reply.
    """

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        self._heard = heard
        self._left = 0
        self._error: RequestError | None = None
        self._done = trio.Event()

    def slot(self) -> Slot:
        """Return the place for one more reply. More can be added after the earlier replies have come."""
        self._left += 1
        if self._done.is_set() and self._error is None:
            self._done = trio.Event()
        return Slot(self)

    def answer(self) -> None:
        self._heard()
        self._left -= 1
        if not self._left:
            self._done.set()

    def fail(self, error: RequestError) -> None:
        self._error = self._error or error
        self._done.set()

    async def wait(self) -> None:
        """Wait until all have come. A checkpoint; when cancelled, the requests go on and their replies are ignored.

        Raises:
            RequestError: at the first that failed, without waiting for the others.
        """
        if self._left or self._error:
            await self._done.wait()
        else:
            await trio.lowlevel.checkpoint()
        if self._error:
            raise self._error


async def ask(send: Callable[[Done], None]) -> Reply:
    """Send one request and wait for its reply: `await ask(lambda done: connection.read(paths, done))`.

    A checkpoint; when cancelled, the request goes on and its reply is ignored.

    Raises:
        RequestError: it failed.
    """
    burst = Burst()
    slot = burst.slot()
    send(slot)
    await burst.wait()
    assert slot.reply is not None
    return slot.reply
