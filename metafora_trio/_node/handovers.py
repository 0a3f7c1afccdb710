"""Handovers: the tasks that this node is handing over, and how many at a time.

Too few at a time are slow: 2,000 tasks that move take 2,000 / n round trips. Too many at a time make each gap long,
because the transactions that hand them over queue up. The number therefore follows the time from the end of a task's
scope, when nobody runs it any more, until the view shows that its claim is gone.

A task that does not stop must not hold up the others, so after a while it no longer counts. But it is still announced:
otherwise its heir would in time withdraw its bid. No handover begins that could not be announced.
"""

from __future__ import annotations

import math

import trio

from metafora_trio._model.node_info import MAX_HANDING_OVER, checksums
from metafora_trio._model.window import Window

__all__ = ["Handovers"]

_SLOW = 5.0
"""Seconds after which a handover is announced. Announced within a plan's tick of that, long before bids time out."""
_ANNOUNCED_EVERY = 2.0
"""The least seconds between two announcements, since each of them reaches every node."""


class Handovers:
    """The handovers in progress: from telling a task to stop until its claim has gone or it is kept after all.

    Args:
        most: the maximum number at any moment. Tasks that take longer than `patience` to stop do not count.
        patience: the seconds that a task should need to stop.
    """

    def __init__(self, most: int, *, patience: float) -> None:
        self._window = Window(most)
        self._patience = max(patience, _SLOW)
        self._stopping: dict[str, float] = {}  # since when, the first ones first
        self._overdue: dict[str, float] = {}  # those that have been stopping for longer than `patience`
        self._closed: dict[str, float] = {}  # since when nobody runs them
        self._waiting = False
        self._slow: frozenset[int] = frozenset()
        self._slow_at = -math.inf  # when it was determined

    def has_room(self) -> bool:
        """Return whether one more may begin. If not, `room_again` will say when."""
        room = self._has_room()
        self._waiting = self._waiting or not room
        return room

    def _has_room(self) -> bool:
        self._set_overdue_apart()
        moving = len(self._stopping) + len(self._closed)
        return moving < self._window.size and len(self._stopping) + len(self._overdue) < MAX_HANDING_OVER

    def _set_overdue_apart(self) -> None:
        latest = trio.current_time() - self._patience
        while self._stopping:
            task, since = next(iter(self._stopping.items()))
            if since > latest:
                break
            self._overdue[task] = self._stopping.pop(task)

    def begin(self, task: str) -> None:
        """Note that a task has been told to stop for an heir."""
        self._stopping[task] = trio.current_time()

    def close(self, task: str) -> None:
        """Note that nobody runs the task any more. Does nothing if the handover has ended already."""
        if self._stop_counting(task):
            self._closed[task] = trio.current_time()

    def end(self, task: str) -> None:
        """Note that the heir has the task, or that it stays here."""
        closed = self._closed.pop(task, None)
        if closed is not None:
            self._window.answered(closed, trio.current_time())
        else:  # the claim had gone before the scope closed
            self._stop_counting(task)

    def _stop_counting(self, task: str) -> bool:
        """Remove a task from those that are stopping. Returns False if it is not one of them."""
        return self._stopping.pop(task, None) is not None or self._overdue.pop(task, None) is not None

    def room_again(self) -> bool:
        """Return whether there is room again since `has_room` has last refused. Says so once."""
        again = self._waiting and self._has_room()
        self._waiting = self._waiting and not again
        return again

    def slow(self) -> frozenset[int]:
        """Return the checksums of the tasks that have been stopping for more than a few seconds.

        Their heirs must know. Otherwise they would in time take their bids for unanswered, withdraw them, and all the
        stopping would be in vain. Fast handovers are not announced, because every announcement reaches every node. For
        the same reason the answer changes at most once in two seconds.
        """
        now = trio.current_time()
        if now - self._slow_at >= _ANNOUNCED_EVERY:
            stopping = (task for task, since in self._stopping.items() if since <= now - _SLOW)
            tasks = [*self._overdue, *stopping][:MAX_HANDING_OVER]  # a drain begins any number of handovers
            self._slow, self._slow_at = checksums(tasks), now
        return self._slow
