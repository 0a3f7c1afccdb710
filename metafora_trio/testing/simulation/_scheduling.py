"""Repeatable scheduling: Trio's scheduler draws its random numbers from a seed.

This uses the two private names of Trio by which its own plugin for Hypothesis does the same.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Generator
from contextlib import contextmanager

from trio._core import _run as trio_run

__all__ = ["repeatable_scheduling"]


@contextmanager
def repeatable_scheduling(seed: int) -> Generator[None]:
    """Make Trio's scheduler draw its random numbers from a seed alone while the body runs."""
    deterministic, chance = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r = _Chance(seed, chance)  # type: ignore[assignment]
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = deterministic  # type: ignore[misc]
        trio_run._r = chance


class _Chance:
    """Trio's source of random numbers: seeded in this thread, unchanged in all others.

    Trio has one source for all threads. If that were seeded, a run in another thread would change what happens here.
    """

    def __init__(self, seed: int, others: random.Random) -> None:
        self._thread = threading.get_ident()
        self._mine = random.Random(seed)
        self._others = others

    def __getattr__(self, name: str) -> object:
        return getattr(self._mine if threading.get_ident() == self._thread else self._others, name)
