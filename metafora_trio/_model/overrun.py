"""OverrunDetector: decides when a lease has been overrun, both in the watchdog's thread and on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["SECONDS_BETWEEN_LOOKS", "OverrunDetector"]

SECONDS_BETWEEN_LOOKS = 0.01
_LOOKS = 5
"""With 0.01 s between looks: the 50 ms that a process has after a thaw to cancel tasks it no longer owns."""


class OverrunDetector:
    """Looks at a lease repeatedly, and decides when to report the tasks that are still open after its end.

    At the end of a lease, and when a frozen process resumes after it, the detector wakes together with Trio, which
    needs a moment to close the scopes. The detector counts looks, not seconds, because seconds also pass while the
    process is frozen and cannot close anything.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._reported = -1.0

    def look(self, now: float, end: float, open_tasks: Callable[[], Sequence[str]]) -> Sequence[str]:
        """Look once, and return the tasks to report now. Each end of a lease is reported once.

        Args:
            now: the current time, by the lease's clock.
            end: when the lease ends, as far as is known now.
            open_tasks: returns the tasks whose scope is open. Called only after there was time to close them.
        """
        self._looks = self._looks + 1 if now > end and end != self._reported else 0
        if self._looks <= _LOOKS:
            return ()
        tasks = open_tasks()
        if tasks:
            self._reported = end
        return tasks

    def until_next_look(self, now: float, end: float) -> float:
        """Return the seconds to wait before the next look."""
        return max(end - now, SECONDS_BETWEEN_LOOKS)
