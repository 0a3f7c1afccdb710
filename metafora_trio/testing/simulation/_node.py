"""SimulatedNode: a node of a simulated cluster."""

from __future__ import annotations

import trio

from metafora_trio import Consumer

from ._hindrances import RefusingBalancer
from ._runs import Place

__all__ = ["SimulatedNode"]


class SimulatedNode:
    """A node: a consumer, and where it runs.

    Attributes:
        name: the name of the node and of its place.
        consumer: the real consumer.
        place: where it runs.
        drained: whether `drain` or `cancel` was called; a drain command does not count.
        scope: the cancel scope around the consumer.
        balancer: the consumer's balancer if it refuses tasks, otherwise None.
    """

    def __init__(self, consumer: Consumer, place: Place, balancer: RefusingBalancer | None = None) -> None:
        self.name: str = consumer.name
        self.consumer: Consumer = consumer
        self.place: Place = place
        self.drained: bool = False
        self.balancer: RefusingBalancer | None = balancer
        self.scope: trio.CancelScope = trio.CancelScope()

    def drain(self) -> None:
        """Drain the node."""
        self.drained = True
        self.place.call(self.consumer.start_draining)

    def cancel(self) -> None:
        """Cancel the node from outside."""
        self.drained = True
        self.place.call(self.scope.cancel)

    @property
    def running(self) -> bool:
        """True until it dies or leaves, even while it is frozen."""
        return not (self.place.dead or self.place.ended)

    @property
    def frozen(self) -> bool:
        """True while its process is stopped."""
        return self.place.frozen

    @property
    def identity(self) -> str | None:
        """The identity of its session; None while it has none."""
        return self.consumer.statistics().node if self.running else None

    @property
    def leaving(self) -> bool:
        """True while it runs and has been told to leave."""
        return self.running and (self.drained or self.consumer.statistics().draining)

    def __repr__(self) -> str:
        return f"<SimulatedNode {self.name} {self.place!r}>"
