"""Probation: finds the nodes that keep losing their sessions, and says for how long they get no tasks.

A node that crashes and restarts again and again would get its share of the tasks each time, and each time nobody would
run them until its session expires. So a node that has lost two sessions or more under its name gets no tasks at first:
4 seconds after it has lost two, twice as long after each further one, at most a minute. A session that lasts a minute
ends that. A single crash costs a node nothing.

Sessions of one name are thought to be of one program on one machine. A session is lost if it ends without draining. So
are those of the same name that began shortly before and are still there: the broker ends the session of a crashed node
only after the session timeout. If they belong to other healthy nodes of that name, started together, that delays the
last ones' first tasks, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from .node_info import NodeInfo
from .plan import may_receive

__all__ = ["Probation"]

_LASTED = 60.0
"""Seconds after which a session has lasted."""
_LOSSES = 2
_MOST = 60.0
"""The longest probation, in seconds."""
_FORGOTTEN = 600.0
"""Seconds after which the losses of a name are forgotten."""


def _length(losses: int) -> float:
    """Return the length of the probation after so many lost sessions, in seconds."""
    return min(2.0 ** min(losses, 16), _MOST) if losses >= _LOSSES else 0.0


class Probation:
    """Follows the sessions of all nodes. All times are in seconds, by the caller's clock."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[NodeInfo, float]] = {}  # since when each has been seen
        self._losses: dict[str, tuple[int, float]] = {}  # by name: how many in a row, and when the last one was

    def forget_nodes(self) -> None:
        """Begin again with a new view. What was found about names is kept."""
        self._nodes.clear()

    def look(self, nodes: Mapping[str, NodeInfo], now: float) -> None:
        """Compare the nodes with the last look. Call this when they change."""
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

    def held_back(self, now: float) -> Collection[str]:
        """Return the identities of the nodes that must get no tasks now.

        If all nodes that may receive tasks are on probation, none is: there is nobody else.
        """
        present = Counter(node.name for node, _ in self._nodes.values())
        if not self._losses and all(count <= _LOSSES for count in present.values()):
            return ()
        held = {
            identity
            for identity, (node, since) in self._nodes.items()
            if now - since < _length(self._losses.get(node.name, (0, 0.0))[0] + self._namesakes(node))
        }
        able = {identity for identity, (node, _) in self._nodes.items() if may_receive(node)}
        return held if able - held else ()

    def _namesakes(self, node: NodeInfo) -> int:
        """Count the nodes of the same name that began at most a minute before this one, and do not drain.

        One that began earlier is alive, or has lasted and is the first to be lost.
        """
        return sum(
            other.name == node.name
            and not other.draining
            and (other.since, other.identity) < (node.since, node.identity)
            and node.since - other.since < _LASTED
            for other, _ in self._nodes.values()
        )
