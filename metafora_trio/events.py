"""Events: everything a consumer does, as typed values.

There are two ways to follow them. `Consumer(..., observers=[observer])` calls each observer with every event, at once
and without a loss. `with consumer.subscribe() as events: async for event in events: ...` reads them in a Trio task of
its own, through a buffer. The standard log is an observer that every consumer has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metafora_trio._model.state import StateName, StopReason

__all__ = [
    "BalancerFailed",
    "CommandDone",
    "CommandRejected",
    "Event",
    "JoinFailed",
    "LeaseAtRisk",
    "Observer",
    "ObserverFailed",
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


class Observer(Protocol):
    """A function that gets every event, in order, in the Trio thread. It must not block.

    One that raises is removed, and reported as `ObserverFailed` to the others; it never ends the node.
    """

    def __call__(self, event: Event, /) -> None: ...


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """The node has joined the cluster, for the first time or again."""

    session_timeout: float


@dataclass(frozen=True, slots=True)
class SessionEnded(Event):
    """The membership is over. `reason` is empty unless the session was lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class JoinFailed(Event):
    """The node could not join again, and tries once more in `delay` seconds. `node` is its name: it has no session."""

    error: BaseException
    delay: float


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
class ObserverFailed(Event):
    """An observer raised, and was removed."""

    observer: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class CommandDone(Event):
    """A command to this node was carried out."""

    command: str
    task: str | None = None


@dataclass(frozen=True, slots=True)
class CommandRejected(Event):
    """A command to this node is unknown or senseless, and was discarded."""

    command: str
    why: str
