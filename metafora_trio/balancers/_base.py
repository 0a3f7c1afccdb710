"""Balancer: the base class, which decides what a node may claim, what it bids for, gives back and hands over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.view import ClusterView

if TYPE_CHECKING:
    from metafora_trio._running_task import RunningTask

__all__ = ["Balancer", "BalancerContext"]


class Member(Protocol):
    """The source of a context's data: a session, or a test's substitute for one."""

    view: ClusterView
    node: NodeInfo


@dataclass(slots=True)
class BalancerContext:
    """The data that a balancer may read. It is read only and always up to date.

    Attributes:
        member: the source of `view` and `node`.
        running: the tasks that run here and have not been told to stop, by id.
        planned: the tasks of other nodes that the plan gives to this node.
    """

    member: Member
    running: Mapping[str, RunningTask]
    planned: Sequence[str] = field(default=())

    @property
    def view(self) -> ClusterView:
        """The view of the cluster."""
        return self.member.view

    @property
    def node(self) -> NodeInfo:
        """This node, as announced. `node.identity` is this session's identity in the view."""
        return self.member.node


class Balancer:
    """Decides which tasks to claim, which to bid for, and which to give up. Subclass it; the defaults are fair.

    With every balancer, the plan alone decides which node tries first to claim an unclaimed task, and which nodes step
    in. A balancer belongs to one consumer. Its methods are called in the Trio thread, must not block, and may be called
    often. If a method raises or gives an invalid answer, that is reported and a default answer is used. It never stops
    the node.
    """

    even = True
    """True if this node bids for tasks of nodes that have more than their share."""

    context: BalancerContext
    """The data to decide by. Set before any other method is called, and again for each session."""

    def attach(self, context: BalancerContext) -> None:
        """Set the context. Called each time the node has joined."""
        self.context = context

    def can_claim(self, task: str) -> bool | float:
        """Return whether this node may take a task now. By default it may.

        Asked before every claim for an unclaimed task, and before every bid for another node's task, even if `steal`
        has named it. While the answer for a task of another node is no, other tasks of that node move instead, and the
        question is repeated within ten seconds. It is not asked when the node only removes a task that was deleted.

        Returns:
            True, False, or the number of seconds after which to ask again.
        """
        return True

    def steal(self) -> Iterable[str]:
        """Return the tasks of other nodes to bid for, most wanted first. By default the tasks that the plan names."""
        return self.context.planned

    def release(self) -> Iterable[str]:
        """Return the running tasks to give back, for other nodes to take. By default none.

        Called with every plan. If the node is frozen, it is called only for the command `balance`.
        """
        return ()

    def consent(self, task: str, heir: str) -> bool:
        """Return whether to hand a task over to the node that has bid for it. Not called while this node drains.

        By default True only if the handover strictly lowers the imbalance. The heir's load counts this bid and all its
        others, so it is an upper bound. Tasks therefore never move back and forth, even if views differ.
        """
        return len(self.context.running) - 1 >= self.context.view.load(heir)
