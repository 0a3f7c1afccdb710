"""Events: typed values that report everything a consumer does.

There are two ways to follow them. `Consumer(..., observers=[observer])` calls each observer with every event,
synchronously and without loss. `with consumer.subscribe() as events: async for event in events: ...` reads them in a
separate Trio task, through a buffer. Every consumer also has an observer that writes events to the standard log.
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
    "NodeResumed",
    "NodeSuspended",
    "Observer",
    "ObserverFailed",
    "OwnerMissing",
    "SessionEnded",
    "SessionOpened",
    "TaskClaimed",
    "TaskEnded",
    "TaskGivenUp",
    "TaskOverran",
    "TaskQuarantined",
    "TaskStarted",
    "TaskStopFailed",
    "TaskStopped",
    "TaskStopping",
    "TaskStuck",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something a consumer did.

    Attributes:
        node: the identity of the session.
    """

    node: str


class Observer(Protocol):
    """A function that is called with every event, in order, in the Trio thread. It must not block.

    An observer that raises is removed, and the others get `ObserverFailed`. It never ends the node.
    """

    def __call__(self, event: Event, /) -> None: ...


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """The node has joined the cluster, for the first time or again."""

    session_timeout: float


@dataclass(frozen=True, slots=True)
class SessionEnded(Event):
    """The session is over. `reason` is empty unless the session was lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class JoinFailed(Event):
    """The node could not rejoin and tries again in `delay` seconds. `node` is its name, since it has no session."""

    error: BaseException
    delay: float


@dataclass(frozen=True, slots=True)
class LeaseAtRisk(Event):
    """No heartbeat was acknowledged for half of the time until all tasks are cancelled. `remaining` is in seconds."""

    remaining: float


@dataclass(frozen=True, slots=True)
class TaskClaimed(Event):
    """This node's claim now owns the task. Reported again if the connection broke before the task started."""

    task: str
    token: int


@dataclass(frozen=True, slots=True)
class TaskStarted(Event):
    """The task's scope is open, and its handler runs."""

    task: str
    token: int


@dataclass(frozen=True, slots=True)
class TaskStopping(Event):
    """The task has been told to stop. For a handover, `heir` is the identity of the node that bid for it."""

    task: str
    token: int
    reason: StopReason
    heir: str | None = None


@dataclass(frozen=True, slots=True)
class TaskStopped(Event):
    """The task's scope has closed, so no part of it runs here any more. `reason` is None if it ended by itself."""

    task: str
    token: int
    reason: StopReason | None


@dataclass(frozen=True, slots=True)
class TaskEnded(Event):
    """The end of the task has been sent to the broker. `error` is the failure in one line, or empty."""

    task: str
    token: int
    state: StateName
    error: str = ""


@dataclass(frozen=True, slots=True)
class TaskGivenUp(Event):
    """The claim is being given up, to `heir` or, if that is None, to any node."""

    task: str
    token: int
    heir: str | None = None


@dataclass(frozen=True, slots=True)
class TaskStopFailed(Event):
    """The handler raised while it was being cancelled. The task is not failed, and continues elsewhere."""

    task: str
    token: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class TaskOverran(Event):
    """The task's scope closed `seconds` after the lease had ended, so another node may have run the task by then."""

    task: str
    token: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TaskStuck(Event):
    """The task's scope has not closed by the end of the lease: its handler ignores cancellation.

    The node joins again beside it, and does not take this task again before the scope has closed. `stack` is where the
    handler, and every task in its nursery, waits.
    """

    task: str
    token: int
    stack: str


@dataclass(frozen=True, slots=True)
class TaskQuarantined(Event):
    """The task is set aside by this node, and tried again later. `reason` says why, in one sentence.

    Reported once, until the reason is gone. There are three:

    * The broker does not let this node read the task. The task is given up, and another node may try.
    * The broker does not let this node write its end. The node keeps the claim, and does not run the task again as long
      as its session lasts.
    * Several nodes have gone soon after they got the task. It seems to end or block every node that runs it.
    """

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeSuspended(Event):
    """So many tasks in a row have failed here, so this node takes no more. It tries one again in `seconds`.

    Reported again after each task on trial that fails, and in each new session.
    """

    failures: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NodeResumed(Event):
    """A task has been completed, or one on trial runs on, so this node takes tasks again as before."""


@dataclass(frozen=True, slots=True)
class OwnerMissing(Event):
    """Tasks have been claimed for two session timeouts by a session that is not a node, so nobody runs them.

    Reported once, by the first node by name. On ZooKeeper it removes such a claim if somebody has made it by hand.
    """

    owner: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BalancerFailed(Event):
    """The balancer raised or gave an invalid answer; the default answer was used instead."""

    method: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class ObserverFailed(Event):
    """An observer raised and was removed."""

    observer: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class CommandDone(Event):
    """A command to this node was carried out."""

    command: str
    task: str | None = None


@dataclass(frozen=True, slots=True)
class CommandRejected(Event):
    """A command to this node is unknown, unreadable or impossible, and was discarded."""

    command: str
    why: str
