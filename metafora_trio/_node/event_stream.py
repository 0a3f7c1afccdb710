"""What a consumer does, as one stream of typed events. Standard logging is one subscriber of it."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import trio

from metafora_trio.events import (
    BalancerFailed,
    CommandDone,
    CommandRejected,
    Event,
    LeaseAtRisk,
    SessionEnded,
    SessionOpened,
    TaskEnded,
    TaskOverran,
    TaskStopFailed,
)

__all__ = []


_LEVELS: dict[type[Event], int] = {
    SessionOpened: logging.INFO,
    SessionEnded: logging.INFO,
    LeaseAtRisk: logging.WARNING,
    TaskStopFailed: logging.ERROR,
    TaskOverran: logging.ERROR,
    BalancerFailed: logging.ERROR,
    CommandDone: logging.INFO,
    CommandRejected: logging.WARNING,
}


class EventStream:
    """Hands each event to the log and to every subscriber, in order.

    A subscriber that lags more than its buffer loses events, which are counted: a slow reader must never
    hold up a node.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._channels: list[trio.MemorySendChannel[Event]] = []
        self.dropped = 0

    def emit(self, event: Event) -> None:
        """Tell everyone."""
        for channel in self._channels:
            try:
                channel.send_nowait(event)
            except trio.WouldBlock:
                self.dropped += 1
            except trio.BrokenResourceError:  # closed by its reader; `subscribe` is about to remove it
                pass
        level = _LEVELS.get(type(event), logging.DEBUG)
        if (isinstance(event, SessionEnded) and event.reason) or (isinstance(event, TaskEnded) and event.error):
            level = logging.WARNING
        if self._logger.isEnabledFor(level):
            error = getattr(event, "error", None)
            self._logger.log(
                level, "%s", event, exc_info=error if isinstance(error, BaseException) else None, extra={"event": event}
            )

    @contextmanager
    def subscribe(self, buffer: int) -> Generator[trio.MemoryReceiveChannel[Event]]:
        """Open a channel of the events from now on."""
        send, receive = trio.open_memory_channel[Event](buffer)
        self._channels.append(send)
        try:
            with receive:
                yield receive
        finally:
            self._channels.remove(send)
            send.close()
