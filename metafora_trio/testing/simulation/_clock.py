"""ProcessClock: the clock of a simulated process, which may run fast or slow, and stands still during a suspend."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["ProcessClock"]


class ProcessClock(trio.abc.Clock):
    """A process's clock. Trio asks it how long to sleep only when nothing can run, which shows that it is idle.

    Args:
        now: returns the world's time.
        rate: how fast this clock runs.

    Attributes:
        idle_until: the next deadline, if the process has been idle since this was last set to None.
        stood_still: the seconds for which it was stopped, up to the last `resume`.
    """

    def __init__(self, now: Callable[[], float], rate: float) -> None:
        self.idle_until: float | None = None
        self.stood_still: float = 0.0
        self._now = now
        self._rate = rate
        self._reached = 0.0
        self._stopped_at: float | None = None

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        now = self._now() if self._stopped_at is None else self._stopped_at
        return max((now - self.stood_still) * self._rate, self._reached)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self.idle_until = deadline
        return 0.0  # otherwise Trio would wait for I/O in a thread

    def when(self, deadline: float) -> float:
        """Return the world's time at which this clock will show a time, unless it is stopped before."""
        return deadline / self._rate + self.stood_still

    def reached(self, deadline: float) -> None:
        """Show at least this time. Converted by the rate and back, a deadline may come out slightly early."""
        self._reached = max(self._reached, deadline)

    def stop(self) -> None:
        """Stand still until `resume`."""
        if self._stopped_at is None:
            self._stopped_at = self._now()

    def resume(self) -> None:
        """Go on, if stopped."""
        if self._stopped_at is not None:
            self.stood_still += self._now() - self._stopped_at
            self._stopped_at = None
