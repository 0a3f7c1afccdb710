"""Parts of a user's program that do not always cooperate: a balancer that refuses tasks, an observer that raises."""

from __future__ import annotations

from collections import Counter

from metafora_trio.balancers import FairBalancer
from metafora_trio.events import Event

__all__ = ["FailingObserver", "RefusingBalancer"]

_ASK_AGAIN = 0.3
"""Seconds after which a refused task may be claimed, unless it is refused again."""


class RefusingBalancer(FairBalancer):
    """Refuses each task several times before this node may claim it, until `relent`.

    Args:
        refusals: how often.
    """

    def __init__(self, refusals: int) -> None:
        self._refusals = refusals
        self._refused: Counter[str] = Counter()

    def relent(self) -> None:
        """Refuse nothing more."""
        self._refusals = 0

    def can_claim(self, task: str) -> bool | float:
        if self._refused[task] >= self._refusals:
            return True
        self._refused[task] += 1
        return _ASK_AGAIN


class FailingObserver:
    """An observer that raises when it gets one event too many.

    Args:
        events: how many events it takes without an exception.
    """

    def __init__(self, events: int) -> None:
        self._left = events

    def __call__(self, event: Event) -> None:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("told to fail")
