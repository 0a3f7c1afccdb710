"""Decides when a lease has been overrun, and whether the event loop is blocked, from what a watchdog sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["SECONDS_BETWEEN_LOOKS", "BlockedDetector", "OverrunDetector"]

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

    def reported(self, end: float) -> bool:
        """Return whether the overrun of this end of a lease has been reported."""
        return self._reported == end

    def until_next_look(self, now: float, end: float) -> float:
        """Return the seconds to wait before the next look."""
        return max(end - now, SECONDS_BETWEEN_LOOKS)


class BlockedDetector:
    """Looks at the event loop repeatedly, and decides when to report that it is blocked and when to give it up.

    A loop that has not run since its tasks should have been cancelled cannot cancel them, and cannot report it.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._reported = False
        self._given_up = False

    def look(self, now: float, beat: float, cancel_at: float, end: float) -> bool:
        """Look once, and return whether to report that the loop is blocked. Each time it is blocked is reported once.

        Args:
            now: the current time, by the lease's clock.
            beat: when the loop was last seen running.
            cancel_at, end: the times of the lease.
        """
        if now <= end or beat >= cancel_at:
            self._looks, self._reported, self._given_up = 0, False, False
            return False
        self._looks += 1
        report = self._looks > _LOOKS and not self._reported
        self._reported = self._reported or report
        return report

    def give_up(self, now: float, beat: float, timeout: float) -> bool:
        """Return whether a blocked loop that was reported has now been blocked for too long. True only once."""
        give_up = self._reported and not self._given_up and now - beat >= timeout
        self._given_up = self._given_up or give_up
        return give_up
