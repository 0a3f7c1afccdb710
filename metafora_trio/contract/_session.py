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
from collections.abc import Sequence

from metafora_trio._model.changes import Changes
from metafora_trio._model.claim import Claim
from metafora_trio._model.command import QueuedCommand
from metafora_trio._model.lease import Lease
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.state import TaskState
from metafora_trio._model.stored_task import StoredTask
from metafora_trio._model.view import ClusterView

__all__ = ["Session"]


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
    async def read(self, task: str) -> StoredTask | None:
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
    def queued_commands(self) -> Sequence[QueuedCommand]:
        """The commands sent to this node, in order, that have not been discarded."""

    @abstractmethod
    def discard(self, queued: QueuedCommand) -> None:
        """Remove a command that was carried out or is unknown."""
