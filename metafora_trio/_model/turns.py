"""Turns: the order in which nodes do something about a task, each only if those before it have not done it.

Every node computes the same order from the same nodes. An order is a place in the sorted list of nodes that depends on
the task, so that many tasks are shared, and from there on the next node each time. A turn costs the same for a thousand
nodes and for two, since a hundred thousand tasks may wait at once. If a node joins or leaves, the order is another one.
That costs a few attempts in vain, and no more: claims decide which node owns a task.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from .node_info import NodeInfo

__all__ = ["RemovalOrder", "StepInOrder"]


class RemovalOrder:
    """The order in which nodes try to remove a deleted task that no node owns.

    To remove a task takes no room and runs nothing, so every live node may do it unless it drains: first those that may
    receive tasks, however full they are, then frozen ones.
    """

    def __init__(self, nodes: Iterable[NodeInfo]) -> None:
        groups: list[list[str]] = [[], []]
        for node in nodes:
            if not node.draining:
                groups[int(node.frozen)].append(node.identity)
        self._groups = [sorted(group) for group in groups]
        self._count = sum(map(len, groups))

    def node_at(self, task: str, turn: int) -> str | None:
        """Return the identity of the node whose turn it is, or None if there is no node.

        Args:
            task: the deleted task.
            turn: 0 for the first choice. Past the last node, the order starts again.
        """
        turn = turn % self._count if self._count else 0
        for group in self._groups:
            if turn < len(group):
                return group[(zlib.crc32(task.encode()) + turn) % len(group)]
            turn -= len(group)
        return None


class StepInOrder:
    """The order in which nodes step in if the first choice for an unclaimed task does not claim it.

    Args:
        nodes: the identities of the nodes that can take tasks.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self._nodes = sorted(nodes)
        self._places = {node: place for place, node in enumerate(self._nodes)}

    def node_at(self, task: str, turn: int, *, first: str | None) -> str | None:
        """Return the identity of the node whose turn it is, or None if there is no node but the first choice.

        Args:
            task: the unclaimed task.
            turn: any number. The next number is the next node's, until all but the first choice have had their turn.
            first: the first choice, which claims the task at any time and needs no turn. None if there is none.
        """
        place = self._places.get(first) if first is not None else None
        others = len(self._nodes) - (place is not None)
        if not others:
            return None
        chosen = (zlib.crc32(task.encode()) + turn) % others
        return self._nodes[chosen + (place is not None and chosen >= place)]
