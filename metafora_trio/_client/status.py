"""TaskStatus and NodeStatus: a client's report on tasks and nodes, as plain data, from the view or a fresh read."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metafora_trio._model.claim import Claim
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.state import TaskError, TaskState
from metafora_trio._model.stored_task import TaskSnapshot
from metafora_trio._model.view import ClusterView

__all__ = [
    "NodeStatus",
    "NodesChanged",
    "TaskChanged",
    "TaskStatus",
    "TaskStatusName",
    "found_status",
    "listed_status",
    "node_statuses",
]


class TaskStatusName(enum.StrEnum):
    """The state of a task as a client sees it."""

    UNCLAIMED = "unclaimed"
    RUNNING = "running"
    """A node owns it."""
    DELETING = "deleting"
    """A client has deleted it, but its owner has not removed it yet."""
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"
    DELETED = "deleted"
    """It is gone, with its state record."""
    UNREADABLE = "unreadable"
    """It has ended, but its state record cannot be read, so it is not known how. `TaskStatus.problem` says why."""
    STRAY = "stray"
    """Its state record is left without a task, because the task was removed by hand. This is no end: submit or delete
    it."""

    @property
    def ended(self) -> bool:
        """True if the task will not run unless it is submitted again."""
        return self in _ENDED


_ENDED = frozenset(TaskStatusName(name) for name in ("completed", "failed", "killed", "deleted", "unreadable"))


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The status of a task.

    Attributes:
        id: the task's id.
        state: its state.
        queue: its claims, head first.
        props: its properties. None in the list of the tasks in the cluster, for a task that has ended if the record of
            its end does not have them, and if they cannot be read.
        stored_state: its state record; None in lists, and if there is no record or it cannot be read.
        problem: why a record of it cannot be read; empty in lists, and if all can.
    """

    id: str
    state: TaskStatusName
    queue: Sequence[Claim] = ()
    props: Mapping[str, Any] | None = None
    stored_state: TaskState | None = None
    problem: str = ""

    @property
    def owner(self) -> str | None:
        """The identity of the node that owns it, or None."""
        return self.queue[0].node if self.queue else None

    @property
    def token(self) -> int | None:
        """The fencing token of its owner, or None."""
        return self.queue[0].seq if self.queue else None

    @property
    def ended(self) -> bool:
        """True if the task will not run unless it is submitted again."""
        return self.state.ended

    @property
    def errors(self) -> Sequence[TaskError]:
        """The failures so far, oldest first, each with its traceback."""
        return self.stored_state.errors if self.stored_state else ()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A live node.

    Attributes:
        node: the record that it announces.
        owned: the number of tasks that it owns.
        bids: the number of other tasks for which it has a claim or a bid in the queue.
    """

    node: NodeInfo
    owned: int
    bids: int


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """The status of a task has changed.

    Attributes:
        id: the task's id.
        status: the status as in `Client.tasks`, or None if the task has left the cluster (`Client.get` returns how it
            ended).
    """

    id: str
    status: TaskStatus | None


@dataclass(frozen=True, slots=True)
class NodesChanged:
    """Nodes joined, left or announced a change.

    Attributes:
        nodes: all live nodes, as in `Client.nodes`.
    """

    nodes: Sequence[NodeStatus]


def listed_status(view: ClusterView, task: str) -> TaskStatus:
    """Return a task's status from the view."""
    queue = tuple(view.queue(task))
    return TaskStatus(task, _present(queue, deleted=view.deleted(task)), queue)


def found_status(task: str, snapshot: TaskSnapshot) -> TaskStatus:
    """Return a task's status from a fresh read."""
    found, stored, queue = snapshot.task, snapshot.state, tuple(snapshot.queue)
    if found is None:
        props = None if stored is None else stored.props
        return TaskStatus(task, _past(snapshot), props=props, stored_state=stored, problem=snapshot.state_problem)
    problem = "; ".join(filter(None, (snapshot.task_problem, snapshot.state_problem)))
    props = None if snapshot.task_problem else found.props
    return TaskStatus(task, _present(queue, deleted=found.deleted), queue, props, stored, problem)


def _past(snapshot: TaskSnapshot) -> TaskStatusName:
    """Return the state of a task that is not in the cluster."""
    stored = snapshot.state
    if stored is None:
        return TaskStatusName.UNREADABLE if snapshot.state_problem else TaskStatusName.DELETED
    return TaskStatusName(stored.state) if stored.state.terminal else TaskStatusName.STRAY


def _present(queue: Sequence[Claim], *, deleted: bool) -> TaskStatusName:
    """Return the state of a task that is in the cluster."""
    if deleted:
        return TaskStatusName.DELETING
    return TaskStatusName.RUNNING if queue else TaskStatusName.UNCLAIMED


def node_statuses(view: ClusterView) -> list[NodeStatus]:
    """Return the live nodes, sorted by identity."""
    statuses = []
    for identity, node in view.nodes.items():
        owned = len(view.owned_by(identity))
        statuses.append(NodeStatus(node, owned, view.load(identity) - owned))
    return sorted(statuses, key=lambda status: status.node.identity)
