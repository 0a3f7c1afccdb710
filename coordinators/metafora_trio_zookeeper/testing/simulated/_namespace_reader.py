"""NamespaceReader: reads the contents of a simulated ensemble at its leader.

The result is the present state. Nodes can only see the state of a moment ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from metafora_trio import StateName, TaskState
from metafora_trio.contract import ClaimAdded, ClusterView, NodeAdded, NodeInfo, TaskAdded, TaskDeleted, node_name
from metafora_trio.testing.simulation import BrokerContents
from metafora_trio_zookeeper._layout import Layout, is_tombstone

from ._ensemble import SimulatedZooKeeper

__all__ = ["NamespaceReader"]


class NamespaceReader:
    """Reads the znodes of one namespace.

    Args:
        zookeeper: the ensemble.
        layout: the namespace's layout.
    """

    def __init__(self, zookeeper: SimulatedZooKeeper, layout: Layout) -> None:
        self._zookeeper = zookeeper
        self._layout = layout

    def claims(self, task: str) -> list[tuple[int, str]]:
        """Return the token and identity of each claim for a task, in no particular order."""
        bucket = self._layout.bucket(task)
        names = (name for name in self._children(f"{self._layout.claims}/{bucket}") if name.startswith(f"{task}~"))
        return [(claim.seq, claim.node) for name in names if (claim := self._layout.parse_claim(bucket, name))]

    def owner(self, task: str) -> tuple[str, int] | None:
        """Return the identity and the token of a task's owner; None if it has none or does not exist."""
        if self._layout.task_path(task) not in self._zookeeper.tree or not (claims := self.claims(task)):
            return None
        token, identity = min(claims)
        return identity, token

    def is_live(self, task: str) -> bool:
        """Return whether a task exists and has not been deleted by a client."""
        znode = self._zookeeper.tree.get(self._layout.task_path(task))
        return znode is not None and not is_tombstone(znode.result())

    def sessions_of(self, name: str) -> dict[str, int]:
        """Return the sessions of all nodes with this name: ZooKeeper's session id by identity."""
        nodes, tree = self._layout.nodes, self._zookeeper.tree
        return {id: tree[f"{nodes}/{id}"].owner for id in self._children(nodes) if node_name(id) == name}

    def contents(self) -> BrokerContents:
        """Return everything that is stored."""
        layout, tree, view = self._layout, self._zookeeper.tree, ClusterView()
        leftovers: list[str] = []
        for identity in sorted(self._children(layout.nodes)):
            view.apply(NodeAdded(NodeInfo.decode(identity, tree[layout.node_path(identity)].data)))
        for _, task in self._names("tasks"):
            view.apply(TaskAdded(task))
            if is_tombstone(tree[layout.task_path(task)].result()):
                view.apply(TaskDeleted(task))
        for bucket, name in self._names("claims"):
            if claim := layout.parse_claim(bucket, name):
                view.apply(ClaimAdded(claim))
            else:
                leftovers.append(f"the claim {name} is left over")
        commanded: list[str] = []
        for name in sorted(self._children(layout.node_commands)):
            if parsed := layout.parse_node_command(name):
                commanded.append(parsed[0])
            else:
                leftovers.append(f"the command {name} is left over")
        leftovers += [f"the command {name} is left over" for _, name in self._names("commands")]
        states = {task: self._state(task) for _, task in self._names("states")}
        return BrokerContents(view, states, commanded, leftovers)

    def _state(self, task: str) -> StateName:
        return TaskState.decode(self._zookeeper.tree[self._layout.state_path(task)].data).state

    def _children(self, path: str) -> Iterable[str]:
        found = self._zookeeper.tree.get(path)
        return () if found is None else found.children

    def _names(self, directory: str) -> Iterator[tuple[str, str]]:
        for bucket in self._layout.buckets:
            yield from ((bucket, name) for name in sorted(self._children(f"{self._layout.root}/{directory}/{bucket}")))
