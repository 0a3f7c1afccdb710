"""Inbox: the only way by which kazoo's thread calls into Trio."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

__all__ = ["Inbox"]

_BATCH = 1000
_CALL_OVERHEAD = 100
"""Bytes that a waiting call takes besides its frame."""


class Inbox:
    """Makes calls that any thread has posted, in the Trio thread and in the order in which they were posted.

    Other Trio tasks run between batches of 1000.

    While the event loop is blocked, kazoo's thread goes on reading. The memory that this takes is bounded: once the
    calls that wait take too many bytes, `put` ignores its calls from then on. What was posted later would make no sense
    without them, so the session has to end.

    Args:
        on_error: called with the exception of a call that raised; the calls after it are still made.
        limit: the number of bytes that may wait.
        on_overflow: called once, in the thread that called `put`, when more would wait.
    """

    def __init__(self, on_error: Callable[[Exception], None], *, limit: int, on_overflow: Callable[[], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._calls: deque[tuple[Callable[[Any, Any], None], Any, Any, int]] = deque()
        self._woken = False
        self._on_error = on_error
        self._limit = limit
        self._on_overflow = on_overflow
        self._overflowed = False
        # Each is changed in one thread only, so neither needs a lock.
        self._bytes_put = 0
        self._bytes_taken = 0

    def __len__(self) -> int:
        return len(self._calls)

    def post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Have the Trio thread make `call(first, second)`, whatever waits already. Never blocks and never raises."""
        self._calls.append((call, first, second, 0))
        self.wake()

    def put(self, call: Callable[[Any, Any], None], first: Any, second: Any, size: int) -> None:
        """Post a call, but let Trio sleep until the next `wake`. Call it in one thread only.

        Waking takes a system call and a thread switch, which cost more than the rest of an event's handling.

        Args:
            size: the bytes of the frame that the call's arguments were made from.
        """
        if self._overflowed:
            return
        size += _CALL_OVERHEAD
        if self._bytes_put - self._bytes_taken + size > self._limit and self._calls:
            self._overflowed = True
            self._on_overflow()
            return
        self._bytes_put += size
        self._calls.append((call, first, second, size))

    def wake(self) -> None:
        """Have Trio make the calls that were `put`. Never blocks and never raises."""
        if self._woken or not self._calls:
            return
        self._woken = True
        try:
            self._token.run_sync_soon(self._drain)
        except trio.RunFinishedError:
            # Nothing is left to call; an exception here would only kill kazoo's loop.
            self._calls.clear()

    def _drain(self) -> None:
        self._woken = False  # first, so that a call posted from here on wakes Trio again
        calls = self._calls
        for _ in range(min(len(calls), _BATCH)):
            call, first, second, size = calls.popleft()
            self._bytes_taken += size
            try:
                call(first, second)
            except Exception as error:  # noqa: BLE001  # `on_error` handles it
                self._on_error(error)
        self.wake()
