"""Session: one membership of one node, as the consumer sees it.

The rules behind the contract:

* **A session is an identity.** `session.node.identity` is `<name>.<mark>`. The mark is new for each session and never
  used again. Claims belong to the session and go with it.
* **Requests are queued and never block.** `claim`, `bid`, `withdraw`, `hand_over`, `finish`, `release`, `announce`
  and `discard` return at once. Their only effect is what the view shows later. While a request is under way, the
  session marks it (`is_pending`, `is_leaving`). The mark goes only when the view shows what came of the request; if the
  request failed, the mark goes too and the task counts as changed. Otherwise the consumer would either see neither
  mark nor claim and ask again, or wait for ever.
* **The order of the broker is the order of the view.** All sessions apply the same events in the same order, and the
  answer to a request comes behind the events that it caused. A node can therefore decide from the view alone, without
  reading, whether its claim owns the task.
* **Two conditional requests decide who owns a task.** If the owner asks for `hand_over(claim, heir)` while the heir
  asks for `withdraw`, exactly one of the two takes place.
* **A refusal about one task is about that task only.** The broker may refuse to let this node read one task, or end it,
  for example for a missing permission. The session goes on. It ends only for a refusal that concerns the session
  itself: its own record, its claims, or what it follows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from metafora_trio._errors import MetaforaError
from metafora_trio._model.changes import Changes
from metafora_trio._model.claim import Claim
from metafora_trio._model.command import QueuedCommand
from metafora_trio._model.lease import Lease
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.state import TaskState
from metafora_trio._model.stored_task import StoredTask
from metafora_trio._model.view import ClusterView

__all__ = ["Session", "TaskRefused"]


_NONE: Mapping[str, str] = MappingProxyType({})


class TaskRefused(MetaforaError):
    """The broker refuses what was asked about one task. Trying again later may help; no other task is concerned."""


class Session(ABC):
    """One membership of one node, from joining to leaving the cluster or losing the session.

    The body of `open_session` may use it. After the body has ended, or the broker has ended the session, every request
    is ignored, nothing is pending, leaving or outstanding, and `current` is false. A session may also be over although
    the broker keeps it and its claims, for example because its lease has run out. As long as the body has not ended,
    it follows the broker and gives up what it is asked to.

    All methods but `wait_changed` and `read` are synchronous, never block, and are called in the Trio thread (except
    `report_blocked` and `abandon`).

    The consumer asks for claims, handovers and ends only while the session is `current`. A session may drop such
    requests at other times, but it keeps `release` and `announce` and carries them out after the reconnect.
    """

    node: NodeInfo
    """This node as last announced, with the session's own identity."""
    view: ClusterView
    """The live view of the cluster. It changes only while its user awaits, never inside a request. When
    `Changes.everything` is reported it may be another object, so look it up again after each wait."""
    lease: Lease
    """How long this session may still be believed in. One object for the whole session, changed in place.

    Renew it (`Lease.renew`) only for a proof that the broker has kept the session alive, counted from the moment the
    heartbeat was sent; `revoke` it when the session has ended. The default is a lease that never ends."""

    @property
    @abstractmethod
    def current(self) -> bool:
        """True while decisions may be based on the view. False from a disconnection until the whole view has been
        compared with the broker again: tasks keep running, but none is claimed, started, given up or finished."""

    @property
    @abstractmethod
    def quiet(self) -> bool:
        """True if no event that has arrived waits to be applied. Nodes make plans only then. Otherwise a node that is
        just leaving, its claims already gone, would look alive and idle: the best candidate of any plan."""

    @property
    def watched(self) -> bool:
        """True if a thread outside the event loop should watch the lease. Return true if the lease is one of real
        time: a blocked event loop cannot notice that the lease has ended. On virtual time it must be false."""
        return False

    @property
    def session_timeout(self) -> float:
        """Seconds after which the broker ends a session that it no longer hears from, as negotiated with the broker;
        infinite if the broker never does."""
        return float("inf")  # pragma: no cover - both coordinators here have one of their own

    @abstractmethod
    async def wait_changed(self) -> None:
        """Wait until `take_changes` would return something. A checkpoint; loses nothing when cancelled."""

    @abstractmethod
    def take_changes(self) -> Changes:
        """Return what has changed since the last call.

        Report a task when an event about it was applied, and when a request about it was answered, also with
        failure. Report `nodes` when a node came, left or announced something, when a command arrived, and when an
        `announce` or `discard` of ours was answered. Report `everything` when the view was built again. Reporting
        too much costs time; reporting too little stops the node.
        """

    @abstractmethod
    async def read(self, task: str) -> StoredTask | None:
        """Read the stored task, or return None if there is none. A checkpoint, even if it was read ahead.

        If what was read has a tombstone that the view does not show, show it there and report the task as changed: no
        event may show it, if it was written before this session began to follow the broker.

        During a disconnection it waits for the reconnect. If the session ends first, the scope around the body
        cancels the wait.

        Raises:
            InvalidTask: what is stored is not a task (`decode_props` raises it).
            TaskRefused: the broker does not let this node read it. The node gives its claim up and tries later.
        """

    @abstractmethod
    def is_pending(self, task: str) -> bool:
        """Return true if a claim or bid of ours for this task was asked for and the view does not show the result."""

    @property
    @abstractmethod
    def pending(self) -> int:
        """The number of tasks for which `is_pending` is true."""

    @abstractmethod
    def is_leaving(self, claim: Claim) -> bool:
        """Return true if we asked for the end of this claim of ours and the view does not show the result."""

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """The number of requests that are queued or unanswered. A node that drains leaves only when it is 0. An end in
        `refusals` that waits to be tried again does not count."""

    @property
    def refusals(self) -> Mapping[str, str]:
        """The tasks whose `finish` the broker has refused, by id, each with the reason; empty where that cannot happen.

        The session keeps such a claim and marks it as leaving for a while (1 s, doubling to 60 s). Then it drops the
        mark and reports the task as changed. The consumer, which has kept the end, then decides again. A task stays
        here until its claim is gone, and is reported as changed when it comes and when its reason changes.
        """
        return _NONE

    @property
    def free_claims(self) -> int:
        """The number of further claims this session may hold, if the broker has a limit of its own."""
        return 1_000_000

    @abstractmethod
    def claim(self, task: str) -> None:
        """Try to get an unclaimed task: append a claim of kind `CLAIM` to its queue.

        Do so even if other claims are in the queue by then: the consumer releases a claim that is not the first.
        Ignore the request while one for this task is pending. Read the task ahead if reading takes a round trip.
        """

    @abstractmethod
    def bid(self, task: str) -> None:
        """Ask for a handover: append a claim of kind `BID` to the queue, behind the owner. Otherwise like `claim`."""

    @abstractmethod
    def release(self, claim: Claim) -> None:
        """Give up a claim, without condition. Try again until the claim is gone or the session is."""

    @abstractmethod
    def withdraw(self, claim: Claim, head: Claim) -> None:
        """Give up a bid if `head` still exists, in one transaction. Otherwise nothing happens: the bid may own the
        task by now."""

    @abstractmethod
    def hand_over(self, claim: Claim, heir: Claim) -> None:
        """Give up a claim if `heir` still exists, in one transaction. Otherwise nothing happens and the task stays
        ours."""

    @abstractmethod
    def finish(self, claim: Claim, state: TaskState | None) -> None:
        """Remove the task and our claim and set the task's state (None: remove the state too), all or nothing.

        It must fail if the claim is gone, or if a client has deleted the task and the view did not show the
        tombstone yet when this was called. Every view must show that the task is gone before it shows that the claim
        is gone. Otherwise the next in the queue would for a moment see itself as the owner of a finished task.

        If the broker refuses it for any other reason, see `refusals`.
        """

    @abstractmethod
    def announce(self, node: NodeInfo) -> None:
        """Tell the other nodes something new about this node. Sets `node` at once; the last announcement wins."""

    @abstractmethod
    def queued_commands(self) -> Sequence[QueuedCommand]:
        """Return the commands sent to this session, in the order of sending, that have not been discarded.

        A command that cannot be read is listed with `command=None`; the consumer reports and discards it.
        """

    @abstractmethod
    def discard(self, queued: QueuedCommand) -> None:
        """Remove a command. The consumer asks again as long as `queued_commands` lists it."""

    # ---- in the watchdog's thread, if the session is `watched`

    def report_blocked(self, since: float) -> None:  # noqa: B027  # a session that is never watched needs none
        """Have this node's record say that its event loop is blocked, until the loop runs again.

        Called in the watchdog's thread, while the event loop is blocked. It must not block either. The session takes
        the notice back by itself: `node` does not show it.

        Args:
            since: when the loop was last seen running, in seconds since the epoch.
        """

    def abandon(self, reason: str) -> None:  # noqa: B027  # a session that is never watched needs none
        """Let the broker end this session after its timeout: prove no more that it is alive, and do not reconnect.

        Called in the watchdog's thread, while the event loop is blocked. It must not block either. Once the loop runs
        again, the session ends like a lost one.

        Args:
            reason: goes into the `SessionLost`.
        """
