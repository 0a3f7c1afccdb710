"""Burst and ask: wait for replies with `await` instead of callbacks."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ._connection import Connection, Done, ErrorCode, ReadResult, Reply, RequestError

__all__ = ["Burst", "Slot", "ask", "is_broken", "read_one"]

_BROKEN = (ErrorCode.CONNECTION_LOSS, ErrorCode.SESSION_EXPIRED)


def is_broken(error: RequestError) -> bool:
    """Return whether the connection broke. If so, the request may or may not have been carried out."""
    return error.code in _BROKEN


class Slot:
    """The slot for one reply of a burst. Pass it as `done`."""

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
        """The reply's value. Read it only after `Burst.wait`."""
        assert self.reply is not None
        return self.reply.value


class Burst:
    """The replies to several pipelined requests.

    Args:
        on_reply: called on each successful reply.
    """

    def __init__(self, on_reply: Callable[[], None] = lambda: None) -> None:
        self._on_reply = on_reply
        self._left = 0
        self._error: RequestError | None = None
        self._done = trio.Event()

    def slot(self) -> Slot:
        """Return the slot for one more reply. Slots can be added even after all earlier replies have come."""
        self._left += 1
        if self._done.is_set() and self._error is None:
            self._done = trio.Event()
        return Slot(self)

    def answer(self) -> None:
        self._on_reply()
        self._left -= 1
        if not self._left:
            self._done.set()

    def fail(self, error: RequestError) -> None:
        self._error = self._error or error
        self._done.set()

    async def wait(self) -> None:
        """Wait for all replies. A checkpoint. Cancelling withdraws no request; the replies are ignored.

        Raises:
            RequestError: a request failed. Raised at the first failure, without waiting for the others.
        """
        if self._left or self._error:
            await self._done.wait()
        else:
            await trio.lowlevel.checkpoint()
        if self._error:
            raise self._error


async def ask(send: Callable[[Done], None]) -> Reply:
    """Send one request and wait for its reply: `await ask(lambda done: connection.read(paths, done))`.

    A checkpoint. Cancelling does not withdraw the request; its reply is ignored.

    Raises:
        RequestError: the request failed.
    """
    burst = Burst()
    slot = burst.slot()
    send(slot)
    await burst.wait()
    assert slot.reply is not None
    return slot.reply


async def read_one(connection: Connection, path: str) -> ReadResult | None:
    """Read a single znode; None if there is none. Cancelling is as for `ask`.

    Raises:
        RequestError: the request failed, or this znode may not be read.
    """
    (found,) = (await ask(lambda done: connection.read([path], done))).value
    if isinstance(found, RequestError):
        raise found
    assert found is None or isinstance(found, ReadResult)
    return found
