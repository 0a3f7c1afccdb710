"""Whether a simulated cluster has come to rest, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from metafora_trio.testing.simulation import Monitor, SimulatedClient, SimulatedNode

from ._truth import Truth

__all__ = ["Rest"]


class Rest:
    """Looks at a cluster that nobody disturbs any more.

    Args:
        nodes: all there ever were, by name.
        client: who has asked for things.
        truth: the znodes.
        monitor: what runs.
    """

    def __init__(
        self, nodes: Mapping[str, SimulatedNode], client: SimulatedClient, truth: Truth, monitor: Monitor
    ) -> None:
        self._nodes = nodes
        self._client = client
        self._truth = truth
        self._monitor = monitor
        self._seen: tuple[object, ...] = ()

    def running(self) -> list[str]:
        """The names of the nodes that run."""
        return [node.name for node in self._nodes.values() if node.running]

    def unanswered(self) -> Iterator[str]:
        """What was asked for, and may still happen."""
        if self._client.outstanding:
            yield f"{self._client.outstanding} requests"
        yield from (f"commands to {node.name}" for node in self._nodes.values() if self._may_be_told(node))

    def _may_be_told(self, node: SimulatedNode) -> bool:
        """Whether a node may still carry out a command: one that stands at the servers, or that it may have heard of
        before the end of its session, which it has not heard of."""
        sessions = tuple(self._truth.sessions_of(node.name))
        if not node.running:
            return False
        return node.identity not in (None, *sessions) or any(
            it.startswith(sessions) for it in self._truth.node_commands()
        )

    def reached(self) -> bool:
        """Whether nothing is missing; also False where nothing has changed since the last time: looking takes long."""
        nodes = [(node.running, node.leaving, node.identity) for node in self._nodes.values()]
        seen = self._monitor.changes, self._truth.changes, nodes
        if seen == self._seen:
            return False
        self._seen = seen
        return not self.missing()

    def missing(self) -> list[str]:
        """All that is not as it should be at rest."""
        live = [node for node in self._nodes.values() if node.running]
        members = [node.identity or f"{node.name} (no session)" for node in live]
        able = [node.name for node in live if not node.leaving]
        leaving = (f"{node.name} has not left" for node in live if node.leaving)
        return [*self._truth.unrest(members, able), *leaving]
