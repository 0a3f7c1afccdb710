"""Handovers: the tasks that this node is handing over, and how many at a time.

Too few at a time are slow: 2,000 tasks that move take 2,000 / n round trips. Too many at a time make each gap long,
because the transactions that hand them over queue up. The number therefore follows the time from the end of a task's
scope, when nobody runs it any more, until the view shows that its claim is gone.
"""

from __future__ import annotations

import trio

from metafora_trio._model.node_info import MAX_HANDING_OVER
from metafora_trio._model.window import Window

__all__ = ["Handovers"]

_SLOW = 5.0
"""Seconds after which a handover is announced. Announced within a plan's tick of that, long before bids time out."""


class Handovers:
    """The handovers in progress: from telling a task to stop until its claim has gone or it is kept after all.

    Args:
        most: the maximum number at any moment.
    """

    def __init__(self, most: int) -> None:
        self._window = Window(most)
        self._stopping: dict[str, float] = {}  # since when
        self._closed: dict[str, float] = {}  # since when nobody runs them
        self._waiting = False

    def has_room(self) -> bool:
        """Return whether one more may begin. If not, `room_again` will say when."""
        room = len(self._stopping) + len(self._closed) < self._window.size
        self._waiting = self._waiting or not room
        return room

    def begin(self, task: str) -> None:
        """Note that a task has been told to stop for an heir."""
        self._stopping[task] = trio.current_time()

    def close(self, task: str) -> None:
        """Note that nobody runs the task any more. Does nothing if the handover has ended already."""
        if self._stopping.pop(task, None) is not None:
            self._closed[task] = trio.current_time()

    def end(self, task: str) -> None:
        """Note that the heir has the task, or that it stays here."""
        closed = self._closed.pop(task, None)
        if closed is not None:
            self._window.answered(closed, trio.current_time())
        else:  # the claim had gone before the scope closed
            self._stopping.pop(task, None)

    def room_again(self) -> bool:
        """Return whether there is room again since `has_room` has last refused. Says so once."""
        again = self._waiting and len(self._stopping) + len(self._closed) < self._window.size
        self._waiting = self._waiting and not again
        return again

    def slow(self) -> tuple[str, ...]:
        """Return the tasks that have been stopping for more than a few seconds, the first ones first.

        Their heirs must know. Otherwise they would in time take their bids for unanswered, withdraw them, and all the
        stopping would be in vain. Fast handovers are not announced, because every announcement reaches every node.
        """
        latest = trio.current_time() - _SLOW
        return tuple(task for task, since in self._stopping.items() if since <= latest)[:MAX_HANDING_OVER]
