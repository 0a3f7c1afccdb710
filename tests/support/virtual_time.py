"""Virtual time for whole modules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

__all__ = ["use_virtual_time"]

T = TypeVar("T")


def _run(
    function: Callable[..., Awaitable[T]], *, clock: Clock | None = None, instruments: Sequence[Instrument] = ()
) -> T:
    return trio.run(function, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)


def use_virtual_time(item: pytest.Item) -> None:
    """Run a test on virtual time. Call it in an autouse fixture: pytest-trio looks for a clock among a test's own
    arguments only."""
    item.add_marker(pytest.mark.trio(run=_run), append=False)
