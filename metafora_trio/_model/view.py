"""ClusterView: the picture of the cluster, as plain data.

A view changes only by `apply(event)`. Its indices (queues, loads, unclaimed tasks) are kept up to date in
O(1) an event (a queue is as long as its number of claims: one or two), so that it can follow a cluster of
100,000 tasks. The same view feeds the consumer, the balancer, the client and anything that draws.
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
    """A node joined, or told something new of itself."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    identity: str


@dataclass(frozen=True, slots=True)
class TaskAdded:
    task: str


@dataclass(frozen=True, slots=True)
class TaskDeleted:
    """A client has deleted the task: a tombstone stands in it. Only its owner removes it."""

    task: str


@dataclass(frozen=True, slots=True)
class TaskRemoved:
    """The task is gone: done, or removed after its tombstone was seen."""

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
    """Nodes, tasks, and for each task its queue of claims.

    Read it freely; change it only by `apply`. Repeated events do no harm.
    """

    nodes: dict[str, NodeInfo] = field(default_factory=dict)
    """The live nodes by identity."""
    tasks: dict[str, bool] = field(default_factory=dict)
    """The tasks by id; the value says whether a tombstone is known to stand in it."""
    unclaimed: dict[str, None] = field(default_factory=dict)
    """The tasks that exist and have no claim, in order of becoming so."""
    contested: dict[str, None] = field(default_factory=dict)
    """The tasks with more than one claim in their queue."""
    orphaned: dict[str, Claim] = field(default_factory=dict)
    """The claims that were the head of a task when it was removed, by task, while they stand: what runs under
    one must stop, even if a task of the same id has been submitted since."""
    _queues: dict[str, list[Claim]] = field(default_factory=dict)
    _claims: dict[str, dict[str, list[Claim]]] = field(default_factory=dict)
    _owned: dict[str, dict[str, None]] = field(default_factory=dict)

    # ---- reading

    def queue(self, task: str) -> Sequence[Claim]:
        """The claims of a task, head first."""
        return self._queues.get(task, _EMPTY)

    def head(self, task: str) -> Claim | None:
        """The claim that owns the task, or None."""
        queue = self._queues.get(task)
        return queue[0] if queue else None

    def owner(self, task: str) -> str | None:
        """The identity of the node that owns the task, or None."""
        queue = self._queues.get(task)
        return queue[0].node if queue else None

    def claims_of(self, node: str) -> Mapping[str, Sequence[Claim]]:
        """The tasks in which a node has claims, with those claims in order."""
        return self._claims.get(node, {})

    def own_claims(self, task: str, node: str) -> Sequence[Claim]:
        """A node's claims in one task's queue, in order."""
        return self._claims.get(node, {}).get(task, _EMPTY)

    def owned_by(self, node: str) -> Mapping[str, None]:
        """The tasks whose head is a node's claim (as keys)."""
        return self._owned.get(node, {})

    def owners(self) -> Iterator[str]:
        """The identities of the nodes that own a task."""
        return iter(self._owned)

    def load(self, node: str) -> int:
        """In how many tasks a node has a claim or a bid."""
        return len(self._claims.get(node, ()))

    def claims(self) -> Iterator[Claim]:
        """Every claim there is."""
        for queue in self._queues.values():
            yield from queue

    def claimed_tasks(self) -> Iterator[str]:
        """Every id with a claim, also where the task itself is gone."""
        return iter(self._queues)

    def deleted(self, task: str) -> bool:
        """Whether a tombstone is known to stand in the task."""
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
            case NodeAdded(node):
                self.nodes[node.identity] = node
            case NodeRemoved(identity):  # pragma: no branch - the last of the union
                self.nodes.pop(identity, None)

    def _add_task(self, task: str) -> None:
        self.tasks.setdefault(task, False)
        if task not in self._queues:
            self.unclaimed[task] = None

    def _mark_deleted(self, task: str) -> None:
        if task in self.tasks:
            self.tasks[task] = True

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
