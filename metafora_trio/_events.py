"""What a consumer does, as one stream of typed events. Standard logging is one subscriber of it."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from ._state import StateName, StopReason

__all__ = [
    "BalancerFailed",
    "Event",
    "LeaseAtRisk",
    "OrderDone",
    "OrderRejected",
    "SessionEnded",
    "SessionOpened",
    "TaskClaimed",
    "TaskEnded",
    "TaskGivenUp",
    "TaskOverran",
    "TaskStarted",
    "TaskStopFailed",
    "TaskStopped",
    "TaskStopping",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something a consumer did.

    Attributes:
        node: the identity of the session.
    """

    node: str


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """The node has joined the cluster, for the first time or again."""

    session_timeout: float


@dataclass(frozen=True, slots=True)
class SessionEnded(Event):
    """The membership is over. `reason` is empty unless the session was lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaseAtRisk(Event):
    """Half of the time to the cancelling of all tasks has gone without a proof of life. `remaining` in seconds."""

    remaining: float


@dataclass(frozen=True, slots=True)
class TaskClaimed(Event):
    """A claim of this node owns the task now. Told again if the connection broke before the start."""

    task: str
    token: int


@dataclass(frozen=True, slots=True)
class TaskStarted(Event):
    """The task's scope is open: its handler runs."""

    task: str
    token: int


@dataclass(frozen=True, slots=True)
class TaskStopping(Event):
    """The task has been told to stop. `heir` is the identity of who asked for it, for a handover."""

    task: str
    token: int
    reason: StopReason
    heir: str | None = None


@dataclass(frozen=True, slots=True)
class TaskStopped(Event):
    """The task's scope has closed: nothing of it runs here any more. `reason` is None if it ended by itself."""

    task: str
    token: int
    reason: StopReason | None


@dataclass(frozen=True, slots=True)
class TaskEnded(Event):
    """The task's end has been sent to the broker. `error` is the failure in one line."""

    task: str
    token: int
    state: StateName
    error: str = ""


@dataclass(frozen=True, slots=True)
class TaskGivenUp(Event):
    """The claim is being given up: to `heir`, or to whoever comes."""

    task: str
    token: int
    heir: str | None = None


@dataclass(frozen=True, slots=True)
class TaskStopFailed(Event):
    """The handler raised while it was being cancelled. The task goes on elsewhere."""

    task: str
    token: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class TaskOverran(Event):
    """The task's scope closed only after the lease had ended, `seconds` late: another node may have run it."""

    task: str
    token: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BalancerFailed(Event):
    """The balancer raised, and was taken to have no opinion."""

    method: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class OrderDone(Event):
    """A command to this node was carried out."""

    command: str
    task: str | None = None


@dataclass(frozen=True, slots=True)
class OrderRejected(Event):
    """A command to this node is unknown or senseless, and was discarded."""

    command: str
    why: str


_LEVELS: dict[type[Event], int] = {
    SessionOpened: logging.INFO,
    SessionEnded: logging.INFO,
    LeaseAtRisk: logging.WARNING,
    TaskStopFailed: logging.ERROR,
    TaskOverran: logging.ERROR,
    BalancerFailed: logging.ERROR,
    OrderDone: logging.INFO,
    OrderRejected: logging.WARNING,
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
