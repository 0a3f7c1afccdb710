"""Probation: finds the nodes that keep losing their sessions, and says for how long they get no tasks.

A node that crashes and restarts again and again would get its share of the tasks each time, and each time nobody would
run them until its session expires. So a node that has lost two sessions or more under its name gets no tasks at first:
4 seconds after it has lost two, twice as long after each further one, at most a minute. A session that lasts a minute
ends that. A single crash costs a node nothing.

Sessions of one name are thought to be of one program on one machine. A session is lost if it ends without draining. The
broker ends the session of a crashed node only after the session timeout, so in a crash loop some that are still there
are lost, too. Once the name has losses, sessions that began shortly before a node's own therefore count as lost for it,
at most as many as the losses that were seen. While no session of a name is lost, any number of nodes may share it.

A node that joins has seen no losses, not even its own. The oldest node therefore announces them in its record. Without
this, the node would claim tasks that become unclaimed just then, and be gone again before they have run for long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence

from .node_info import MAX_LOSING, NodeInfo
from .plan import may_receive

__all__ = ["Probation"]

_LASTED = 60.0
"""Seconds after which a session has lasted."""
_LOSSES = 2
_MOST = 60.0
"""The longest probation, in seconds."""
_FORGOTTEN = 600.0
"""Seconds after which the losses of a name are forgotten."""
_WORST = 6
"""The losses after which the probation is the longest. No more are announced, to announce less often."""


def _length(losses: int) -> float:
    """Return the length of the probation after so many lost sessions, in seconds."""
    return min(2.0 ** min(losses, 16), _MOST) if losses >= _LOSSES else 0.0


class Probation:
    """Follows the sessions of all nodes. All times are in seconds, by the caller's clock."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[NodeInfo, float]] = {}  # since when each has been seen
        self._losses: dict[str, tuple[int, float]] = {}  # by name: how many in a row, and when the last one was

    @property
    def most_losses(self) -> int:
        """The largest number of sessions in a row that any name has lost."""
        return max((losses for losses, _ in self._losses.values()), default=0)

    def forget_nodes(self) -> None:
        """Begin again with a new view. What was found about names is kept."""
        self._nodes.clear()

    def look(self, nodes: Mapping[str, NodeInfo], now: float) -> None:
        """Compare the nodes with the last look. Call this when they change. At first, learn what they announce."""
        if not self._nodes:
            for name, losses in (entry for node in nodes.values() for entry in node.losing):
                self._losses[name] = max((losses, now), self._losses.get(name, (0, now)))
        for identity, (node, since) in self._nodes.items():
            if identity not in nodes and not node.draining:
                before = self._losses.get(node.name, (0, 0.0))[0] if now - since < _LASTED else 0
                self._losses[node.name] = before + 1, now
        self._nodes = {
            identity: (node, self._nodes[identity][1] if identity in self._nodes else now)
            for identity, node in nodes.items()
        }
        for node, since in self._nodes.values():
            if now - since >= _LASTED:
                self._losses.pop(node.name, None)
        self._losses = {name: entry for name, entry in self._losses.items() if now - entry[1] < _FORGOTTEN}

    def losing(self, me: str) -> frozenset[tuple[str, int]]:
        """Return what a node must announce as `NodeInfo.losing`: nothing unless it is the oldest.

        Args:
            me: its identity.
        """
        if min(((node.since, identity) for identity, (node, _) in self._nodes.items()), default=("", ""))[1] != me:
            return frozenset()
        worst = sorted(((min(losses, _WORST), name) for name, (losses, _) in self._losses.items()), reverse=True)
        return frozenset((name, losses) for losses, name in worst[:MAX_LOSING] if losses >= _LOSSES)

    def held_back(self, now: float) -> Collection[str]:
        """Return the identities of the nodes that must get no tasks now.

        If all nodes that may receive tasks are on probation, none is: there is nobody else.
        """
        if not self._losses:
            return ()
        began = self._beginnings()
        held = {
            identity
            for identity, (node, since) in self._nodes.items()
            if node.name in began and now - since < _length(self._lost_before(node, began[node.name]))
        }
        able = {identity for identity, (node, _) in self._nodes.items() if may_receive(node)}
        return held if able - held else ()

    def _beginnings(self) -> dict[str, list[tuple[float, str]]]:
        """Return when the sessions began that do not drain: for each name that has losses, in order."""
        began: dict[str, list[tuple[float, str]]] = {name: [] for name in self._losses}
        for node, _ in self._nodes.values():
            if node.name in began and not node.draining:
                began[node.name].append((node.since, node.identity))
        for beginnings in began.values():
            beginnings.sort()
        return began

    def _lost_before(self, node: NodeInfo, began: Sequence[tuple[float, str]]) -> int:
        """Return how many sessions in a row the node has lost, as far as one can tell.

        Sessions of its name that began at most a minute before it are probably lost. Those that began earlier are
        alive, or have lasted, so that the next loss is the first.
        """
        losses, _ = self._losses[node.name]
        older = bisect_right(began, node.since - _LASTED, key=lambda beginning: beginning[0])
        return losses + min(losses, bisect_left(began, (node.since, node.identity)) - older)
