"""The wall clock, for dates and times that are recorded. Durations are measured by Trio's clock."""

from __future__ import annotations

import datetime
from typing import Protocol

import trio

__all__ = ["Clock", "SystemClock", "TrioClock"]


class Clock(Protocol):
    """A source of the date and time."""

    def now(self) -> datetime.datetime:
        """Return the current time as an aware datetime in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime.datetime:
        """Return the current time as an aware datetime in UTC."""
        return datetime.datetime.now(datetime.UTC)


class TrioClock:
    """A wall clock that advances with Trio's clock, so it also works on virtual time.

    Args:
        epoch: the date and time when Trio's clock reads 0, as an aware datetime. By default 2000-01-01 in UTC.
    """

    def __init__(self, epoch: datetime.datetime = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)) -> None:
        self._epoch = epoch

    def now(self) -> datetime.datetime:
        """Return the current time as an aware datetime in UTC. Works only inside `trio.run`."""
        return self._epoch + datetime.timedelta(seconds=trio.current_time())
