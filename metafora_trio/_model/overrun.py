"""When a lease has been overrun: decided the same way by the watchdog's thread and on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["SECONDS_BETWEEN_LOOKS", "OverrunDetector"]

SECONDS_BETWEEN_LOOKS = 0.01
_LOOKS = 5
"""So many looks, that far apart, are the 50 ms that a process has after a thaw to cancel what is no longer its own."""


class OverrunDetector:
    """Looks at a lease again and again, and decides when to report the tasks that are open after its end.

    At the end of a lease, and when a frozen process goes on after it, this wakes together with Trio, which needs a
    moment to close the scopes. So it counts looks, not seconds: seconds pass while the process is frozen, too, when
    nobody could have closed anything.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._reported = -1.0

    def look(self, now: float, end: float, open_tasks: Callable[[], Sequence[str]]) -> Sequence[str]:
        """Look once; return the tasks to report now, once for each end of a lease.

        Args:
            now: the time by the clock of the lease.
            end: when the lease ends, as far as is known now.
            open_tasks: returns the tasks whose scope is open; only called when there has been time to close them.
        """
        self._looks = self._looks + 1 if now > end and end != self._reported else 0
        if self._looks <= _LOOKS:
            return ()
        tasks = open_tasks()
        if tasks:
            self._reported = end
        return tasks

    def until_next_look(self, now: float, end: float) -> float:
        """Seconds to wait before the next look."""
        return max(end - now, SECONDS_BETWEEN_LOOKS)
