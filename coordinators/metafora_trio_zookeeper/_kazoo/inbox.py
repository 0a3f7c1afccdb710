"""Inbox: the only way by which kazoo's thread calls into Trio."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

__all__ = ["Inbox"]

_BATCH = 1000


class Inbox:
    """Makes calls that any thread has posted, in the Trio thread and in the order in which they were posted.

    Other Trio tasks run between batches of 1000.

    Args:
        on_error: called with the exception of a call that raised; the calls after it are still made.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._calls: deque[tuple[Callable[[Any, Any], None], Any, Any]] = deque()
        self._woken = False
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self._calls)

    def post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Have the Trio thread make `call(first, second)`. Never blocks and never raises."""
        self._calls.append((call, first, second))
        self.wake()

    def put(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Post a call, but let Trio sleep until the next `wake`.

        Waking takes a system call and a thread switch, which cost more than the rest of an event's handling.
        """
        self._calls.append((call, first, second))

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
            call, first, second = calls.popleft()
            try:
                call(first, second)
            except Exception as error:  # noqa: BLE001  # `on_error` handles it
                self._on_error(error)
        self.wake()
