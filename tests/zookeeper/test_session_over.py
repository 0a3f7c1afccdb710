"""A session that is over although its claims stay: only a task that does not stop keeps its claim. On virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from metafora_trio.events import SessionEnded, SessionOpened
from tests.support.zookeeper.nodes import Nodes, open_nodes

STUCK = 60.0
"""Seconds for which one task ignores that it is cancelled."""


def remove_node(nodes: Nodes) -> None:
    nodes.cluster.inflict("remove_node", node="n1")


def remove_node_and_reconnect(nodes: Nodes) -> None:
    """The session ends between two heartbeats and must then list everything again."""
    remove_node(nodes)
    nodes.cluster.run_for(0.5)
    nodes.cluster.inflict("elect", out=0.5)


def refuse_an_announcement(nodes: Nodes) -> None:
    (path,) = (path for path in nodes.zookeeper.tree if path.startswith("/m/nodes/n1."))
    nodes.zookeeper.forbidden.writing.add(path)
    nodes.cluster.inflict("lag_server", server=1, seconds=0.0)  # a fault without effect: the monitor demands one
    nodes.cluster.send("n1", "freeze")


@pytest.mark.parametrize("end", [remove_node, remove_node_and_reconnect, refuse_an_announcement])
def test_only_the_stuck_task_waits(end: Callable[[Nodes], None]) -> None:
    """ZooKeeper still knows the session, so its claims go one by one, each as soon as its own scope has closed."""
    with open_nodes(1) as nodes:
        cluster = nodes.cluster
        nodes.submit("stuck", "u", "v")
        nodes.start()
        cluster.linger("stuck", STUCK, shield=True)
        before = nodes.starts()
        end(nodes)
        assert cluster.run_until(lambda: nodes.starts() - before == Counter("uv"), within=10.0)
        cluster.run_for(STUCK - 15.0)
        assert nodes.starts() - before == Counter("uv")
        assert cluster.owner("stuck") == "n1"
        assert nodes.of(SessionEnded) == []
        assert cluster.run_until(lambda: nodes.starts()["stuck"] == 2, within=20.0)
        assert len(nodes.of(SessionEnded)) == 1


def test_a_resync_that_is_refused_is_tried_again() -> None:
    """Without a view, no claim can be given up. So as soon as it can be listed again, the other tasks go."""
    with open_nodes(1) as nodes:
        cluster = nodes.cluster
        nodes.submit("stuck", "u", "v")
        cluster.linger("stuck", STUCK, shield=True)
        directory = f"{nodes.layout.tasks}/{nodes.layout.bucket('u')}"
        nodes.zookeeper.forbidden.reading.add(directory)
        cluster.inflict("elect", out=0.5)
        cluster.run_for(20.0)
        assert nodes.starts() == Counter(["stuck", "u", "v"])
        opened = len(nodes.of(SessionOpened))
        nodes.allow_everything()
        assert cluster.run_until(lambda: nodes.starts() == Counter(["stuck", *"uuvv"]), within=25.0)
        assert len(nodes.of(SessionOpened)) == opened + 1
        assert nodes.of(SessionEnded) == []
        cluster.run_for(STUCK)
        assert nodes.starts()["stuck"] == 2
