"""The contract between Metafora and a broker: Coordinator, Session, Client, and what they exchange.

Who writes a coordinator implements these three classes; `MemoryCoordinator` is the shortest example, and
`metafora_trio.testing.CoordinatorConformance` tests any other. The rules behind the contract:

* **A session is an identity.** `session.node.identity` is `<name>.<mark>`, with a mark that no other session
  ever has. Claims belong to the session, and go with it.
* **Requests are queued and never block.** `claim`, `bid`, `withdraw`, `hand_over`, `finish`, `release`,
  `announce` and `discard` return at once; their only effect is what the view then shows. While one is
  under way the session marks it (`is_pending`, `is_leaving`); when it fails the mark goes and the task
  counts as changed, so that whoever asked looks at the view and decides again.
* **The order of the broker is the order of the view.** A claim is decided from the view alone.
* **Two conditional requests decide who owns**: of `hand_over(claim, heir)` and the heir's `withdraw`, exactly
  one takes place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from ._lease import Lease
from ._order import Command, Order
from ._state import TaskState
from ._task import Task
from ._view import Claim, ClusterView, NodeInfo

__all__ = ["BrokerClient", "Changes", "Coordinator", "Session", "TaskRecord"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is stored of a task.

    Attributes:
        props: its properties.
        version: 0 as submitted, 1 when a client has deleted it.
    """

    props: Mapping[str, Any]
    version: int = 0

    @property
    def deleted(self) -> bool:
        """Whether a tombstone stands in the task."""
        return self.version > 0


@dataclass(slots=True)
class Changes:
    """What changed since one last looked. Only a hint where to look: the view is the truth.

    Attributes:
        tasks: the ids of tasks to look at again.
        nodes: nodes came, went or told something new.
        everything: the whole view is new.
    """

    tasks: dict[str, None] = field(default_factory=dict)
    nodes: bool = False
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or self.nodes or bool(self.tasks)


class Session(ABC):
    """One membership of one node, from joining to leaving or losing it.

    The body of `open_session` may use it; afterwards every request is ignored. All methods but
    `wait_changed` and `read` are synchronous, non-blocking, and called in the Trio thread.
    """

    node: NodeInfo
    """This node, as last announced."""
    view: ClusterView
    """The live picture of the cluster. Changes only while its user awaits."""
    lease: Lease
    """How long this session may still be believed in."""

    @property
    @abstractmethod
    def current(self) -> bool:
        """Whether the view may be acted on. False from a disconnection until all has been looked at anew: what
        runs then goes on, but nothing is claimed, started, given up or finished."""

    @property
    @abstractmethod
    def quiet(self) -> bool:
        """Whether no event waits to be applied. Plan only then: a node in the middle of leaving looks alive
        and empty, the best candidate of any plan."""

    @property
    def watched(self) -> bool:
        """Whether a thread should watch the lease from outside the event loop: true where the lease is one of
        real time."""
        return False

    @property
    def session_timeout(self) -> float:
        """Seconds until the broker gives up on a node it no longer hears; infinite where it always hears."""
        return float("inf")  # pragma: no cover - both coordinators here have one of their own

    @abstractmethod
    async def wait_changed(self) -> None:
        """Wait until `take_changes` would return something. A checkpoint; loses nothing when cancelled."""

    @abstractmethod
    def take_changes(self) -> Changes:
        """What has changed since the last call."""

    @abstractmethod
    async def read(self, task: str) -> TaskRecord | None:
        """The stored task, or None if there is none. A checkpoint, even when it was read ahead.

        After a disconnection it waits for the reconnect (bounded by the session).

        Raises:
            InvalidTask: what is stored is not a task.
        """

    @abstractmethod
    def is_pending(self, task: str) -> bool:
        """Whether a claim or bid of ours for this task has been asked for and is not decided yet."""

    @property
    @abstractmethod
    def pending(self) -> int:
        """In how many tasks a claim or bid of ours has been asked for and is not in the view yet."""

    @abstractmethod
    def is_leaving(self, claim: Claim) -> bool:
        """Whether we have asked for the end of this claim of ours, and do not know the answer yet."""

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """How many requests are queued or unanswered."""

    @property
    def free_claims(self) -> int:
        """How many more claims this session may hold (the broker's own limit)."""
        return 1_000_000

    @abstractmethod
    def claim(self, task: str) -> None:
        """Try to get an unclaimed task. Reads it ahead."""

    @abstractmethod
    def bid(self, task: str) -> None:
        """Queue up behind the owner and so ask for a handover. Reads the task ahead."""

    @abstractmethod
    def release(self, claim: Claim) -> None:
        """Give up a claim unconditionally. Guaranteed: tried again until it is gone or the session is."""

    @abstractmethod
    def withdraw(self, claim: Claim, head: Claim) -> None:
        """Give up a bid, if `head` is still there; else nothing happens: the bid may own the task by now."""

    @abstractmethod
    def hand_over(self, claim: Claim, heir: Claim) -> None:
        """Give up a claim, if `heir` is still there; else nothing happens, and the task stays ours."""

    @abstractmethod
    def finish(self, claim: Claim, state: TaskState | None) -> None:
        """Remove the task and our claim and set its final state (None: remove the state too), all or nothing.

        Happens only if the claim is still there, and the task's tombstone as the view knows it."""

    @abstractmethod
    def announce(self, node: NodeInfo) -> None:
        """Tell the others something new of this node. Sets `node` at once."""

    @abstractmethod
    def orders(self) -> Sequence[Order]:
        """The commands sent to this node, in order, that have not been discarded."""

    @abstractmethod
    def discard(self, order: Order) -> None:
        """Remove a command that was carried out or is unknown."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What the broker stores of one task, looked up by a client.

    Attributes:
        record: the task, None when it has ended.
        state: its state record, None if there is none.
        queue: its claims, head first.
    """

    record: TaskRecord | None
    state: TaskState | None
    queue: Sequence[Claim] = ()


class BrokerClient(ABC):
    """What a broker does for a `Client`: the primitives; the rest is built on them.

    Every method is a checkpoint and raises `CoordinatorUnavailable` when the broker cannot be reached (after
    the coordinator's `connect_timeout`).
    """

    @abstractmethod
    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        """Create tasks, with a state record each, in batches; nothing is written before all were checked.

        Raises:
            TaskExists: at least one is in the cluster already, or is still ending. Tasks of other batches may
                have been submitted: the message says how many were.
            TaskFinished: at least one has a terminal state, and `again` is false; likewise.
        """

    @abstractmethod
    async def delete(self, task: str) -> None:
        """Put a tombstone into a task; where it has ended, remove its state.

        Raises:
            TaskNotFound: neither a task nor a state is there.
        """

    @abstractmethod
    async def look_up(self, task: str) -> TaskFacts:
        """What is stored of a task, read afresh (with all three parts empty if nothing is)."""

    @abstractmethod
    async def finished(self) -> Sequence[str]:
        """The ids with a state record and no task: those that have ended and were not deleted."""

    @abstractmethod
    async def send(self, identity: str, command: Command) -> None:
        """Leave a command for one session.

        Raises:
            NodeNotFound: this session is over.
        """

    @abstractmethod
    async def open_view(self) -> ClusterView:
        """The live picture, made at the first call. Not acted on: it may lag behind."""

    @abstractmethod
    async def wait_changed(self) -> None:
        """Wait until `take_changes` would return something (`open_view` first)."""

    @abstractmethod
    def take_changes(self) -> Changes:
        """What has changed in the view since the last call."""


class Coordinator(ABC):
    """The client interface to a broker; swapped through the Consumer's constructor."""

    connect_timeout: float = 10.0
    """Seconds after which an unreachable broker is reported."""

    @abstractmethod
    def open_session(self, node: NodeInfo) -> AbstractAsyncContextManager[Session]:
        """Join the cluster; the async context manager owns everything that runs for the session.

        Args:
            node: what to announce; its identity is the node's name only, the session adds its own mark.

        The body runs in a cancel scope whose deadline is the lease. On a normal or cancelled exit the session is
        closed at the broker (bounded, shielded), which gives up every claim. Exceptions of the body leave
        it unwrapped.

        Raises:
            CoordinatorUnavailable: on entering: the broker was not reached within `connect_timeout`.
            SessionLost: on leaving: the session ended, or its lease ran out; the body was cancelled.
        """

    @abstractmethod
    def open_client(self) -> AbstractAsyncContextManager[BrokerClient]:
        """Connect as a client. Exceptions of the body leave it unwrapped.

        Raises:
            CoordinatorUnavailable: the broker was not reached within `connect_timeout`.
        """
