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


async def find_a_lethal_task(cluster: Cluster) -> Node:
    """Let a task end three nodes while a fourth looks on, and then run on a fifth. Return the fourth."""
    nodes: dict[str, Node] = {}
    handler = crashes_with("bad", nodes, cluster)
    for name in ("a", "b", "c"):
        node = await cluster.start(name, handler, settle=0.0)
        nodes[node.identity] = node
    await cluster.submit("bad")
    onlooker = await cluster.start("d", settle=0.0, capacity=0)
    await cluster.wait_until(lambda: all(node.ended.is_set() for node in nodes.values()))
    heir = await cluster.start("e", settle=0.0)
    await cluster.wait_until(lambda: heir.tasks == {"bad"})
    return onlooker


async def test_it_is_cleared_once_it_lasts(autojump_clock: MockClock) -> None:
    """When the task runs for a minute after all, nothing is left of the suspicion."""
    async with open_cluster(session_timeout=T) as cluster:
        d = await find_a_lethal_task(cluster)
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


async def test_it_is_cleared_after_a_new_session(autojump_clock: MockClock) -> None:
    """A node that has joined again while the task runs elsewhere sees that it lasts, and takes its suspicion back."""
    async with open_cluster(session_timeout=T) as cluster:
        d = await find_a_lethal_task(cluster)
        cluster.coordinator.expire(d.identity)
        await trio.sleep(10)
        (shown,) = [status.node for status in await cluster.client.nodes() if status.node.identity == d.identity]
        assert len(shown.notices) == 1
        await trio.sleep(60)
        assert all(not status.node.notices for status in await cluster.client.nodes())


async def test_a_node_that_was_cut_off_sees_who_has_the_task(autojump_clock: MockClock) -> None:
    """A task under suspicion may change hands while a node is cut off. Its next victim counts all the same."""
    async with open_cluster() as cluster:
        nodes: dict[str, Node] = {}
        told_to_crash = {name: trio.Event() for name in "abc"}

        async def handler(task: RunningTask) -> None:
            node = nodes[task.node]
            await told_to_crash[node.consumer.name].wait()
            cluster.crash(node)

        watching = await cluster.start("watching", settle=0.0, capacity=0)
        for name in told_to_crash:
            node = await cluster.start(name, handler, settle=0.0)
            nodes[node.identity] = node
        await cluster.submit_until_running("bad")
        for _ in range(2):
            if len(told_to_crash) == 2:
                cluster.coordinator.partition(watching.identity)
            told_to_crash.pop(cluster.running["bad"]).set()
            await trio.sleep(5)
        # Drop the events: after a reconnect, a broker may send only a new view.
        cluster.coordinator._find(watching.identity).inbox._items.clear()
        cluster.coordinator.heal(watching.identity)
        await trio.sleep(5)
        told_to_crash.pop(cluster.running["bad"]).set()
        await trio.sleep(5)
        assert [event.task for event in watching.take_events() if isinstance(event, TaskQuarantined)] == ["bad"]
