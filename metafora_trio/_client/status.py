"""What a client says of tasks and nodes: plain data, made from the view or from what was read afresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metafora_trio._model.claim import Claim
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.state import StateName, TaskError, TaskState
from metafora_trio._model.stored_task import TaskFacts
from metafora_trio._model.view import ClusterView

__all__ = [
    "NodeStatus",
    "NodesChanged",
    "TaskChanged",
    "TaskStatus",
    "found_status",
    "listed_status",
    "node_statuses",
]


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What is known of a task.

    Attributes:
        id: the task's id.
        state: in the cluster: `unclaimed`, `running` (a node owns it), `deleting` (a tombstone stands in it), or the
            `StateName` that keeps it from running: `sleeping`, `paused`, `fault`. Ended: `completed`, `failed`,
            `killed`; `deleted` where nothing is left.
        queue: its claims, head first.
        props: its properties; None in lists, and for a task that has ended.
        record: its state record; None in lists, and where there is none.
    """

    id: str
    state: str
    queue: Sequence[Claim] = ()
    props: Mapping[str, Any] | None = None
    record: TaskState | None = None

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
        return self.state in _ENDED

    @property
    def errors(self) -> Sequence[TaskError]:
        """The failures so far, oldest first, each with its traceback."""
        return self.record.errors if self.record else ()


_ENDED = frozenset({"deleted", *(state for state in StateName if state.terminal)})


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
    state = "deleting" if view.deleted(task) else "running" if queue else "unclaimed"
    return TaskStatus(task, state, queue)


def found_status(task: str, facts: TaskFacts) -> TaskStatus:
    """A task's status, as read afresh."""
    record, stored, queue = facts.record, facts.state, tuple(facts.queue)
    if record is None:
        return TaskStatus(task, stored.state if stored else "deleted", record=stored)
    if record.deleted:
        state = "deleting"
    elif stored and stored.state is not StateName.RUNNABLE:
        state = stored.state
    else:
        state = "running" if queue else "unclaimed"
    return TaskStatus(task, state, queue, record.props, stored)


def node_statuses(view: ClusterView) -> list[NodeStatus]:
    """The live nodes by identity."""
    statuses = []
    for identity, node in view.nodes.items():
        owned = len(view.owned_by(identity))
        statuses.append(NodeStatus(node, owned, view.load(identity) - owned))
    return sorted(statuses, key=lambda status: status.node.identity)
