"""What a client says of tasks and nodes: plain data, made from the view or from what was read afresh."""

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
    "StatusName",
    "TaskChanged",
    "TaskStatus",
    "found_status",
    "listed_status",
    "node_statuses",
]


class StatusName(enum.StrEnum):
    """What a client sees of a task, in one word."""

    UNCLAIMED = "unclaimed"
    RUNNING = "running"
    """A node owns it."""
    DELETING = "deleting"
    """A client has deleted it, and its owner has not removed it yet."""
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"
    DELETED = "deleted"
    """Nothing of it is left."""

    @property
    def ended(self) -> bool:
        """Whether nothing will run the task unless it is submitted again."""
        return self in (StatusName.COMPLETED, StatusName.FAILED, StatusName.KILLED, StatusName.DELETED)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What is known of a task.

    Attributes:
        id: the task's id.
        state: whether it waits, runs, or has ended.
        queue: its claims, head first.
        props: its properties; None in lists, and for a task that has ended.
        stored_state: its state record; None in lists, and where there is none.
    """

    id: str
    state: StatusName
    queue: Sequence[Claim] = ()
    props: Mapping[str, Any] | None = None
    stored_state: TaskState | None = None

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
        """Whether it is over: nothing will run it unless it is submitted again."""
        return self.state.ended

    @property
    def errors(self) -> Sequence[TaskError]:
        """The failures so far, oldest first, each with its traceback."""
        return self.stored_state.errors if self.stored_state else ()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A live node.

    Attributes:
        node: what it tells of itself.
        owned: how many tasks it owns.
        bids: how many more it has asked for.
    """

    node: NodeInfo
    owned: int
    bids: int


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """Something about a task is new.

    Attributes:
        id: the task's id.
        status: as in `Client.tasks`; None when the task has left the cluster (`Client.get` says how it ended).
    """

    id: str
    status: TaskStatus | None


@dataclass(frozen=True, slots=True)
class NodesChanged:
    """Nodes came, went or told something new of themselves.

    Attributes:
        nodes: all live nodes, as in `Client.nodes`.
    """

    nodes: Sequence[NodeStatus]


def listed_status(view: ClusterView, task: str) -> TaskStatus:
    """A task's status, as far as the view knows."""
    queue = tuple(view.queue(task))
    return TaskStatus(task, _present(queue, deleted=view.deleted(task)), queue)


def found_status(task: str, snapshot: TaskSnapshot) -> TaskStatus:
    """A task's status, as read afresh."""
    found, stored, queue = snapshot.task, snapshot.state, tuple(snapshot.queue)
    if found is None:
        return TaskStatus(task, StatusName(stored.state) if stored else StatusName.DELETED, stored_state=stored)
    return TaskStatus(task, _present(queue, deleted=found.deleted), queue, found.props, stored)


def _present(queue: Sequence[Claim], *, deleted: bool) -> StatusName:
    """The state of a task that is in the cluster."""
    if deleted:
        return StatusName.DELETING
    return StatusName.RUNNING if queue else StatusName.UNCLAIMED


def node_statuses(view: ClusterView) -> list[NodeStatus]:
    """The live nodes by identity."""
    statuses = []
    for identity, node in view.nodes.items():
        owned = len(view.owned_by(identity))
        statuses.append(NodeStatus(node, owned, view.load(identity) - owned))
    return sorted(statuses, key=lambda status: status.node.identity)
