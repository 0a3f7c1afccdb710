"""Probation: a node that crashes again and again costs the cluster little; one that crashes once costs no more."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import MemoryCoordinator
from metafora_trio._clock import TrioClock
from metafora_trio._model.probation import Probation
from tests.support.nodes import Cluster, Node, open_cluster, spread

T = 4.0


class SlowToExpire(MemoryCoordinator):
    """A coordinator whose broker ends the session of a crashed node after `T`, as a real one does."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(latency=0.002, session_timeout=T)
        self._nursery = nursery
        self._crashed: set[str] = set()
        self._end = self._store.end_session
        self._store.end_session = self._end_session  # type: ignore[method-assign]

    def crash(self, identity: str) -> None:
        self._crashed.add(identity)
        super().crash(identity)

    def _end_session(self, identity: str) -> None:
        if identity in self._crashed:
            self._nursery.start_soon(self._expire_later, identity)
        else:
            self._end(identity)

    async def _expire_later(self, identity: str) -> None:
        await trio.sleep(T)
        self._end(identity)


async def start(cluster: Cluster, name: str) -> Node:
    """Start a node that dates its session by virtual time."""
    return await cluster.start(name, clock=TrioClock(), rng=random.Random(trio.current_time()))


@asynccontextmanager
async def cluster_of(*names: str, tasks: int) -> AsyncGenerator[tuple[Cluster, list[Node]]]:
    """Open a cluster with nodes that have lasted, and tasks that run."""
    async with trio.open_nursery() as nursery:
        async with open_cluster(SlowToExpire(nursery)) as cluster:
            nodes = [await start(cluster, name) for name in names]
            await cluster.submit_until_running(*(f"t{i}" for i in range(tasks)))
            await trio.sleep(70)
            yield cluster, nodes
            for node in nodes:
                node.scope.cancel()
            await trio.sleep(T + 1)
        nursery.cancel_scope.cancel()


async def crash_repeatedly(cluster: Cluster, node: Node, *, every: float, seconds: float) -> tuple[Node, float]:
    """Kill a node again and again, and restart it at once under its name.

    Returns:
        The last node, and the task-seconds for which tasks did not run.
    """
    tasks, lost, end = len(cluster.running), 0.0, trio.current_time() + seconds
    next_crash = trio.current_time()
    while trio.current_time() < end:
        if trio.current_time() >= next_crash:
            next_crash += every
            cluster.crash(node)
            node = await start(cluster, node.consumer.name)
        await trio.sleep(0.05)
        lost += 0.05 * (tasks - len(cluster.running))
    return node, lost


@pytest.mark.parametrize("every, most", [(2.0, 0.05), (5.0, 0.08), (10.0, 0.07)])
async def test_a_crash_loop_costs_little(every: float, most: float, autojump_clock: MockClock) -> None:
    """One of five nodes is killed again and again for a minute. Tasks are lost to it at first, and then no more."""
    async with cluster_of("a", "b", "c", "d", "bad", tasks=50) as (cluster, nodes):
        before = dict(cluster.starts)
        nodes[-1], lost = await crash_repeatedly(cluster, nodes[-1], every=every, seconds=60)
        assert lost <= most * 50 * 60
        again = sum(cluster.starts[task] - before[task] for task in before)
        assert again <= 80  # without probation, these are 313, 198 and 99
        await cluster.wait_until(lambda: spread(nodes) <= 1 and len(cluster.running) == 50, within=70)


async def test_a_single_crash_costs_no_more_than_before(autojump_clock: MockClock) -> None:
    """A node that crashes once and restarts gets its share as soon as any node that joins."""
    async with cluster_of("a", "b", "c", tasks=30) as (cluster, nodes):
        cluster.crash(nodes[-1])
        nodes[-1] = await start(cluster, "c")
        await cluster.wait_until(lambda: len(nodes[-1].tasks) >= 4, within=2.5)
        await cluster.wait_until(lambda: spread(nodes) <= 1 and len(cluster.running) == 30, within=T + 3)


async def test_owners_do_not_consent(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not know of its losses bids, but no owner hands it a task as long as it is on probation."""
    monkeypatch.setattr(Probation, "losing", lambda self, me: frozenset())
    async with cluster_of("a", "b", "bad", tasks=12) as (cluster, nodes):
        nodes[-1], _ = await crash_repeatedly(cluster, nodes[-1], every=T + 2, seconds=4 * (T + 2))
        cluster.crash(nodes[-1])
        await trio.sleep(T + 1)  # no older session is left in any view
        joined = trio.current_time()
        nodes[-1] = await start(cluster, "bad")
        await cluster.wait_until(lambda: cluster.coordinator._store.view.load(nodes[-1].identity))
        await trio.sleep(10)
        assert nodes[-1].tasks == set()
        await cluster.wait_until(lambda: len(nodes[-1].tasks) == 4, within=60)
        assert trio.current_time() - joined >= 30


async def test_a_node_that_joins_knows_of_its_losses(autojump_clock: MockClock) -> None:
    """The oldest node announces them. So it does not even bid, and claims nothing that becomes unclaimed."""
    async with cluster_of("a", "b", "bad", tasks=12) as (cluster, nodes):
        nodes[-1], _ = await crash_repeatedly(cluster, nodes[-1], every=T + 2, seconds=4 * (T + 2))
        view = cluster.coordinator._store.view
        assert [dict(node.losing) for node in view.nodes.values() if node.losing] == [{"bad": 4}]
        assert dict(view.nodes[nodes[0].identity].losing) == {"bad": 4}
        await cluster.submit(*(f"u{i}" for i in range(12)))
        with trio.move_on_after(6):
            while True:
                assert view.load(nodes[-1].identity) == 0
                await trio.sleep(0.01)
        await cluster.wait_until(lambda: spread(nodes) <= 1 and len(cluster.running) == 24, within=60)
        await cluster.wait_until(lambda: not any(node.losing for node in view.nodes.values()), within=70)


@pytest.mark.parametrize("every", [1.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("after", [20.0, 20.7, 21.4])
async def test_failover_beside_a_crash_loop(every: float, after: float, autojump_clock: MockClock) -> None:
    """One node dies for good while another dies again and again. Its tasks run again as soon as otherwise."""
    async with cluster_of("a", "b", "c", "d", "bad", tasks=50) as (cluster, nodes):

        async def crash_on() -> None:
            nodes[-1], _ = await crash_repeatedly(cluster, nodes[-1], every=every, seconds=after + 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_on)
            await trio.sleep(after)
            before = {task: cluster.starts[task] for task in nodes[0].tasks}
            cluster.crash(nodes[0])
            await cluster.wait_until(lambda: all(cluster.starts[task] > before[task] for task in before), within=T + 1)
        nodes[0] = await start(cluster, "a")


async def test_two_nodes_of_one_name(autojump_clock: MockClock) -> None:
    """Healthy nodes that share a name share the tasks, however many they are."""
    async with cluster_of("same", "same", "same", "same", tasks=12) as (cluster, nodes):
        assert [len(node.tasks) for node in nodes] == [3, 3, 3, 3]
        nodes.append(await start(cluster, "same"))
        await cluster.wait_until(lambda: spread(nodes) <= 1, within=5)


async def test_ten_nodes_of_one_name_start_together(autojump_clock: MockClock) -> None:
    """Nodes that share a name, as in containers of one image, are even as soon as nodes with names of their own."""
    async with open_cluster() as cluster:
        await cluster.submit(*(f"t{i:02}" for i in range(50)))
        nodes = [await start(cluster, "worker") for _ in range(10)]
        await cluster.wait_until(lambda: len(cluster.running) == 50 and spread(nodes) == 0, within=5)


async def test_one_of_ten_young_nodes_of_one_name_crashes(autojump_clock: MockClock) -> None:
    """A single loss holds nobody back for longer than a few seconds."""
    async with trio.open_nursery() as nursery:
        async with open_cluster(SlowToExpire(nursery)) as cluster:
            nodes = [await start(cluster, "worker") for _ in range(10)]
            await cluster.submit_until_running(*(f"t{i:02}" for i in range(50)))
            await trio.sleep(10)
            cluster.crash(nodes[3])
            nodes[3] = await start(cluster, "worker")
            await cluster.wait_until(lambda: len(cluster.running) == 50 and spread(nodes) <= 1, within=2 * T + 3)
            for node in nodes:
                node.scope.cancel()
            await trio.sleep(T + 1)
        nursery.cancel_scope.cancel()
