"""LogObserver: writes events to the standard log."""

from __future__ import annotations

import logging

from metafora_trio.events import (
    BalancerFailed,
    CommandDone,
    CommandRejected,
    Event,
    JoinFailed,
    LeaseAtRisk,
    NodeResumed,
    NodeSuspended,
    ObserverFailed,
    OwnerMissing,
    SessionEnded,
    SessionOpened,
    TaskEnded,
    TaskOverran,
    TaskQuarantined,
    TaskStopFailed,
    TaskStuck,
)

__all__ = ["LogObserver"]

_LEVELS: dict[type[Event], int] = {
    SessionOpened: logging.INFO,
    SessionEnded: logging.INFO,
    JoinFailed: logging.WARNING,
    LeaseAtRisk: logging.WARNING,
    TaskStopFailed: logging.ERROR,
    TaskOverran: logging.ERROR,
    TaskStuck: logging.CRITICAL,
    TaskQuarantined: logging.WARNING,
    NodeSuspended: logging.ERROR,
    NodeResumed: logging.INFO,
    BalancerFailed: logging.ERROR,
    ObserverFailed: logging.ERROR,
    OwnerMissing: logging.WARNING,
    CommandDone: logging.INFO,
    CommandRejected: logging.WARNING,
}
"""Log levels by event type. Every other event has DEBUG."""


class LogObserver:
    """An observer that logs each event at its level, with the event itself as `record.event`.

    Args:
        logger: the logger to write to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __call__(self, event: Event, /) -> None:
        level = _LEVELS.get(type(event), logging.DEBUG)
        if (isinstance(event, SessionEnded) and event.reason) or (isinstance(event, TaskEnded) and event.error):
            level = logging.WARNING
        if self._logger.isEnabledFor(level):
            error = getattr(event, "error", None)
            with_traceback = error if isinstance(error, BaseException) and level >= logging.ERROR else None
            self._logger.log(level, "%s", event, exc_info=with_traceback, extra={"event": event})

    def __repr__(self) -> str:
        return f"<LogObserver {self._logger.name!r}>"
