"""The balancer's part: what a node may take, ask for, give up and hand over."""

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
    """Where the context looks: a session, or what a test puts in its place."""

    view: ClusterView
    node: NodeInfo


@dataclass(slots=True)
class BalancerContext:
    """What a balancer may look at. Read only; always up to date.

    Attributes:
        member: where `view` and `node` come from.
        running: the tasks that run here and are not on their way out, by id.
        planned: the tasks of other nodes that the plan gives to this node.
    """

    member: Member
    running: Mapping[str, RunningTask]
    planned: Sequence[str] = field(default=())

    @property
    def view(self) -> ClusterView:
        """The picture of the cluster."""
        return self.member.view

    @property
    def node(self) -> NodeInfo:
        """This node, as announced; `node.identity` is who we are."""
        return self.member.node


class Balancer:
    """Decides which tasks to claim, which to ask for, and which to give up. Subclass it; the defaults are fair.

    Which node tries first for an unclaimed task, and who steps in, is the plan's order for every balancer. A
    balancer belongs to one consumer. Its methods are called in the Trio thread, must not block, and may
    be called often. One that raises is reported and taken to have no opinion; it never stops the node.
    """

    even = True
    """Whether this node asks for tasks of nodes that have more than their share."""

    context: BalancerContext
    """Set before any method is called; anew for each session."""

    def attach(self, context: BalancerContext) -> None:
        """Called when the node has joined."""
        self.context = context

    def can_claim(self, task: str) -> bool | float:
        """Whether this node may take an unclaimed task now.

        Returns:
            True, False, or the number of seconds after which to ask again.
        """
        return True

    def steal(self) -> Iterable[str]:
        """The tasks of other nodes to bid for, the most wanted first. By default what the plan says."""
        return self.context.planned

    def release(self) -> Iterable[str]:
        """The tasks running here to give back, for others to take. By default none."""
        return ()

    def consent(self, task: str, heir: str) -> bool:
        """Whether to hand a task over to the node that has bid for it. Not asked while this node drains.

        By default only if that strictly lowers the imbalance. The heir's load counts this bid and all its
        others, so that it is an upper bound: that is why tasks never go back and forth, whatever the views.
        """
        return len(self.context.running) - 1 >= self.context.view.load(heir)
