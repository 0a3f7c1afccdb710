"""LoopMonitor: measures how late the event loop does what is due."""

from __future__ import annotations

import trio

__all__ = ["LoopMonitor"]

_WINDOW = 30.0
"""Seconds. The lag reported is the largest of the current window and the one before."""


class LoopMonitor:
    """Beats while the event loop runs. The watchdog's thread reads the last beat.

    Args:
        period: seconds between two beats.

    Attributes:
        beat: when the loop was last seen running, in Trio time.
    """

    def __init__(self, period: float) -> None:
        self.beat: float = trio.current_time()
        self._period = period
        self._window_ends = self.beat + _WINDOW
        self._largest = self._largest_before = 0.0

    @property
    def lag(self) -> float:
        """The most seconds by which the loop was late during the last half to whole minute."""
        return max(self._largest, self._largest_before)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = self.beat + self._period
            await trio.sleep_until(due)
            self.beat = now = trio.current_time()
            if now >= self._window_ends:
                self._largest_before, self._largest = self._largest, 0.0
                self._window_ends = now + _WINDOW
            self._largest = max(self._largest, now - due)
