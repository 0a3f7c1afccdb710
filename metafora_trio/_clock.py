"""The wall clock: what is recorded or scheduled by date. Durations are measured by Trio's clock."""

from __future__ import annotations

import datetime
from typing import Protocol

import trio

__all__ = ["Clock", "SystemClock", "TrioClock"]


class Clock(Protocol):
    """Tells the date and time."""

    def now(self) -> datetime.datetime:
        """The present time, as an aware datetime in UTC."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime.datetime:
        """The present time, as an aware datetime in UTC."""
        return datetime.datetime.now(datetime.UTC)


class TrioClock:
    """A wall clock that advances with Trio's clock, and so also on virtual time.

    Args:
        epoch: the date and time at which Trio's clock shows 0, aware. By default 2000-01-01 in UTC.
    """

    def __init__(self, epoch: datetime.datetime = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)) -> None:
        self._epoch = epoch

    def now(self) -> datetime.datetime:
        """The present time, as an aware datetime in UTC. Only inside `trio.run`."""
        return self._epoch + datetime.timedelta(seconds=trio.current_time())
