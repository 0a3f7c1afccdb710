"""ClusterView: a view of the cluster, as plain data.

A view changes only by `apply(event)`. Each event updates its indices (queues, loads, unclaimed tasks) in O(1), because
a queue holds only one or two claims. A view can therefore follow a cluster of 100,000 tasks. The consumer, the
balancer, the client and the command line all use this type.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .claim import Claim
from .node_info import NodeInfo

__all__ = [
    "ClaimAdded",
    "ClaimRemoved",
    "ClusterView",
    "NodeAdded",
    "NodeRemoved",
    "TaskAdded",
    "TaskDeleted",
    "TaskRemoved",
    "ViewEvent",
]


@dataclass(frozen=True, slots=True)
class NodeAdded:
    """A node joined or announced a change."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    identity: str


@dataclass(frozen=True, slots=True)
class TaskAdded:
    task: str


@dataclass(frozen=True, slots=True)
class TaskDeleted:
    """A client has deleted the task: it now has a tombstone. Only its owner removes it."""

    task: str


@dataclass(frozen=True, slots=True)
class TaskRemoved:
    """The task is gone: it has ended, or its owner has removed it because of its tombstone."""

    task: str


@dataclass(frozen=True, slots=True)
class ClaimAdded:
    claim: Claim


@dataclass(frozen=True, slots=True)
class ClaimRemoved:
    claim: Claim


ViewEvent = NodeAdded | NodeRemoved | TaskAdded | TaskDeleted | TaskRemoved | ClaimAdded | ClaimRemoved

_EMPTY: tuple[Claim, ...] = ()


@dataclass(slots=True, eq=False)
class ClusterView:
    """The nodes, the tasks, and each task's queue of claims.

    Read it freely; change it only by `apply`. Repeated events do no harm.
    """

    nodes: dict[str, NodeInfo] = field(default_factory=dict)
    """The live nodes by identity."""
    tasks: dict[str, bool] = field(default_factory=dict)
    """The tasks by id. The value is True if the task is known to have a tombstone."""
    tombstones: dict[str, None] = field(default_factory=dict)
    """The tasks that are known to have a tombstone."""
    unclaimed: dict[str, None] = field(default_factory=dict)
    """The tasks that exist and have no claim, longest unclaimed first."""
    contested: dict[str, None] = field(default_factory=dict)
    """The tasks with more than one claim in their queue."""
    orphaned: dict[str, Claim] = field(default_factory=dict)
    """By task, the claim that was the head when the task was removed, while that claim exists. A run under it must
    stop, even if a task with the same id has been submitted since."""
    _queues: dict[str, list[Claim]] = field(default_factory=dict)
    _claims: dict[str, dict[str, list[Claim]]] = field(default_factory=dict)
    _owned: dict[str, dict[str, None]] = field(default_factory=dict)

    # ---- reading

    def queue(self, task: str) -> Sequence[Claim]:
        """Return the claims of a task, head first."""
        return self._queues.get(task, _EMPTY)

    def head(self, task: str) -> Claim | None:
        """Return the claim that owns the task, or None."""
        queue = self._queues.get(task)
        return queue[0] if queue else None

    def owner(self, task: str) -> str | None:
        """Return the identity of the node that owns the task, or None."""
        queue = self._queues.get(task)
        return queue[0].node if queue else None

    def claims_of(self, node: str) -> Mapping[str, Sequence[Claim]]:
        """Return the tasks in which a node has claims or bids, with these claims in order."""
        return self._claims.get(node, {})

    def own_claims(self, task: str, node: str) -> Sequence[Claim]:
        """Return a node's claims in one task's queue, in order."""
        return self._claims.get(node, {}).get(task, _EMPTY)

    def owned_by(self, node: str) -> Mapping[str, None]:
        """Return the tasks that a node owns, as keys."""
        return self._owned.get(node, {})

    def owners(self) -> Iterator[str]:
        """Return the identities of the nodes that own a task."""
        return iter(self._owned)

    def claimants(self) -> Iterator[str]:
        """Return the identities of the nodes that have a claim or a bid."""
        return iter(self._claims)

    def load(self, node: str) -> int:
        """Return the number of tasks in which a node has a claim or a bid."""
        return len(self._claims.get(node, ()))

    def claims(self) -> Iterator[Claim]:
        """Yield every claim."""
        for queue in self._queues.values():
            yield from queue

    def claimed_tasks(self) -> Iterator[str]:
        """Return every task id that has a claim, even if the task itself is gone."""
        return iter(self._queues)

    def deleted(self, task: str) -> bool:
        """Return whether the task is known to have a tombstone."""
        return self.tasks.get(task, False)

    # ---- changing

    def apply(self, event: ViewEvent) -> None:
        """Change the view by one event."""
        match event:
            case ClaimAdded(claim):
                self._add_claim(claim)
            case ClaimRemoved(claim):
                self._remove_claim(claim)
            case TaskAdded(task):
                self._add_task(task)
            case TaskDeleted(task):
                self._mark_deleted(task)
            case TaskRemoved(task):
                if self.tasks.pop(task, None) is not None and (head := self.head(task)):
                    self.orphaned[task] = head
                self.unclaimed.pop(task, None)
                self.tombstones.pop(task, None)
            case NodeAdded(node):
                self.nodes[node.identity] = node
            case NodeRemoved(identity):  # pragma: no branch - the last type of the union
                self.nodes.pop(identity, None)

    def _add_task(self, task: str) -> None:
        self.tasks.setdefault(task, False)
        if task not in self._queues:
            self.unclaimed[task] = None

    def _mark_deleted(self, task: str) -> None:
        if task in self.tasks:
            self.tasks[task] = True
            self.tombstones[task] = None

    def _add_claim(self, claim: Claim) -> None:
        task = claim.task
        queue = self._queues.get(task)
        if queue is None:
            self._queues[task] = [claim]
            self.unclaimed.pop(task, None)
            self._owned.setdefault(claim.node, {})[task] = None
        else:
            place = bisect.bisect_left(queue, claim)
            if place < len(queue) and queue[place] == claim:
                return
            if place == 0:
                self._set_owner(task, queue[0].node, claim.node)
            queue.insert(place, claim)
            self.contested[task] = None
        bisect.insort(self._claims.setdefault(claim.node, {}).setdefault(task, []), claim)

    def _remove_claim(self, claim: Claim) -> None:
        task = claim.task
        queue = self._queues.get(task, [])
        if claim not in queue:
            return
        was_head = queue[0] is claim or queue[0] == claim
        queue.remove(claim)
        if was_head:
            self._set_owner(task, claim.node, queue[0].node if queue else None)
        if self.orphaned.get(task) == claim:
            del self.orphaned[task]
        if len(queue) == 1:
            del self.contested[task]
        elif not queue:
            del self._queues[task]
            if task in self.tasks:
                self.unclaimed[task] = None
        of_node = self._claims[claim.node]
        of_node[task].remove(claim)
        if not of_node[task]:
            del of_node[task]
            if not of_node:
                del self._claims[claim.node]

    def _set_owner(self, task: str, old: str, new: str | None) -> None:
        if old == new:
            return
        owned = self._owned[old]
        del owned[task]
        if not owned:
            del self._owned[old]
        if new is not None:
            self._owned.setdefault(new, {})[task] = None
