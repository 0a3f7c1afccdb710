"""Lethal tasks: a task that ends each node that runs it is left alone, and no other task is."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from metafora_trio import Handler, RunningTask
from metafora_trio.events import TaskQuarantined
from tests.support.nodes import Cluster, Node, open_cluster

T = 4.0


def crashes_with(task: str, nodes: dict[str, Node], cluster: Cluster) -> Handler:
    """Return a handler for one task that crashes the node that runs it, after half a second."""

    async def handler(running: RunningTask) -> None:
        if running.id == task:
            await trio.sleep(0.5)
            cluster.crash(nodes[running.node])
        await trio.sleep_forever()

    return handler


async def test_it_ends_three_nodes_and_not_all(autojump_clock: MockClock) -> None:
    """After three nodes, the others leave the task alone, say so, and run everything else."""
    async with open_cluster(session_timeout=T) as cluster:
        nodes: dict[str, Node] = {}
        handler = crashes_with("bad", nodes, cluster)
        for name in ("a", "b", "c", "d", "e"):
            node = await cluster.start(name, handler, settle=0.0)
            nodes[node.identity] = node
        await cluster.submit("bad", *(f"t{i}" for i in range(30)))
        await cluster.wait_until(lambda: sum(not node.ended.is_set() for node in nodes.values()) == 2)
        left = [node for node in nodes.values() if not node.ended.is_set()]
        died = trio.current_time()
        await cluster.wait_until(lambda: len(cluster.running) == 30, within=T + 1)
        reports = [[event for event in node.take_events() if isinstance(event, TaskQuarantined)] for node in left]
        assert [[event.task for event in events] for events in reports] == [["bad"], ["bad"]]
        shown = [status.node.notices for status in await cluster.client.nodes()]
        assert shown == [("task bad is left alone for a while: 3 nodes have gone soon after they got it",)] * 2
        await cluster.wait_until(lambda: cluster.starts["bad"] == 4, within=20)
        assert trio.current_time() - died >= 4.5
        for node in left:
            node.scope.cancel()


async def test_it_is_cleared_once_it_lasts(autojump_clock: MockClock) -> None:
    """When the task runs for a minute after all, nothing is left of the suspicion."""
    async with open_cluster(session_timeout=T) as cluster:
        nodes: dict[str, Node] = {}
        handler = crashes_with("bad", nodes, cluster)
        for name in ("a", "b", "c"):
            node = await cluster.start(name, handler, settle=0.0)
            nodes[node.identity] = node
        await cluster.submit("bad")
        d = await cluster.start("d", settle=0.0, capacity=0)
        await cluster.wait_until(lambda: all(node.ended.is_set() for node in nodes.values()))
        e = await cluster.start("e", settle=0.0)
        await cluster.wait_until(lambda: e.tasks == {"bad"})
        assert (await cluster.client.nodes())[0].node.notices
        await trio.sleep(70)
        assert all(not status.node.notices for status in await cluster.client.nodes())
        assert d.tasks == set()


async def test_two_nodes_are_not_enough(autojump_clock: MockClock) -> None:
    """A task whose nodes have gone twice, as may happen to any task, is taken again at once."""
    async with open_cluster(session_timeout=T) as cluster:
        nodes: dict[str, Node] = {}
        handler = crashes_with("t", nodes, cluster)
        for name in ("a", "b"):
            node = await cluster.start(name, handler, settle=0.0)
            nodes[node.identity] = node
        await cluster.submit("t")
        d = await cluster.start("d", settle=0.0)
        await cluster.wait_until(lambda: d.tasks == {"t"})
        await trio.sleep(5)
        assert not [event for event in d.take_events() if isinstance(event, TaskQuarantined)]
