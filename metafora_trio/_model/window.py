"""Window: how many requests may be under way at once. It grows while they are answered fast, and shrinks if not.

This is the additive increase and multiplicative decrease of TCP (Jacobson, 1988), which finds out how much a cluster
bears without being told. It begins more gently: what is under way when it becomes too much is a gap for a task each.
"""

from __future__ import annotations

import math

__all__ = ["Window"]

_FIRST = 16
"""The size to begin with, and the least, unless the limit is less."""
_GROWTH = 0.25
"""The growth for each fast answer until the first slow one: a quarter of the size in each round of answers. Later it is
one in each round."""
_FAST = 0.02
"""An answer within so many seconds is fast, whatever the fastest so far took."""
_SLOW_FACTOR = 1.5
"""An answer that takes so many times as long as the fastest so far is slow."""


class Window:
    """Follows how fast requests are answered. All times are in seconds, by the caller's clock.

    Args:
        most: the largest size.
    """

    def __init__(self, most: int) -> None:
        self._least = min(_FIRST, most)
        self._most = most
        self._size = float(self._least)
        self._fastest = math.inf
        self._shrunk_at = -math.inf

    @property
    def size(self) -> int:
        """How many requests may be under way."""
        return int(self._size)

    def answered(self, sent: float, now: float) -> None:
        """Note when a request was sent whose answer has come."""
        took = now - sent
        self._fastest = min(self._fastest, took)
        if took > max(_FAST, _SLOW_FACTOR * self._fastest):
            self.slow(sent, now)
        elif self._size < self._most:
            grown = self._size + (_GROWTH if self._shrunk_at == -math.inf else 1 / self._size)
            self._size = min(grown, self._most)

    def slow(self, sent: float, now: float) -> None:
        """Note when a request was sent that is answered slowly, or not at all. Those sent before the last time count
        for nothing: they were sent while there was too much under way."""
        if sent >= self._shrunk_at:
            self._shrunk_at = now
            self._size = max(self._least, self._size / 2)
