"""Nodes on a simulated ensemble in which something is refused or goes wrong, with everything that they report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metafora_trio.events import Event
from metafora_trio.testing.simulation import SimulatedCluster
from metafora_trio_zookeeper._layout import Layout
from metafora_trio_zookeeper.testing.simulated import SimulatedZooKeeper, ZooKeeperBroker
from stress.simulate.machine import quiet

__all__ = ["INNOCENT", "Nodes", "open_nodes"]

INNOCENT = [f"i{number:02}" for number in range(12)]


class Nodes:
    """Some nodes and all their events, with the number of times that each handler began and returned."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.events: list[Event] = []
        assert isinstance(cluster.broker, ZooKeeperBroker)
        self.zookeeper: SimulatedZooKeeper = cluster.broker.zookeeper
        self.layout = Layout("/m", 2)

    def start(self, **options: Any) -> str:
        return self.cluster.start(observers=[self.events.append], **options).name

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if type(event) is kind]

    def starts(self) -> Counter[str]:
        return Counter(task for task, _ in self.cluster.monitor.started)

    def notices(self) -> list[str]:
        nodes = self.cluster.broker.contents().view.nodes.values()
        return sorted(notice for node in nodes for notice in node.notices)

    def submit(self, *tasks: str) -> None:
        for task in tasks:
            self.cluster.submit(task)
        self.cluster.run_until_running(*tasks)

    def forbid_reading(self, task: str, *, hidden: bool = True) -> None:
        forbidden = self.zookeeper.forbidden
        forbidden.reading.add(self.layout.task_path(task))
        if hidden:
            forbidden.events.add(self.layout.task_path(task))

    def allow_everything(self) -> None:
        forbidden = self.zookeeper.forbidden
        for paths in (forbidden.reading, forbidden.events, forbidden.writing):
            paths.clear()


@contextmanager
def open_nodes(count: int) -> Iterator[Nodes]:
    with quiet(), SimulatedCluster(seed=1, broker=ZooKeeperBroker) as cluster:
        nodes = Nodes(cluster)
        for _ in range(count):
            nodes.start()
        cluster.run_for(3.0)
        yield nodes
