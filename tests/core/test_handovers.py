"""Handovers: many at a time where the broker is far, and as few as the limit says."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import RunningTask
from metafora_trio.balancers import GreedyBalancer
from metafora_trio.events import Event, TaskStopped
from tests.support.nodes import Cluster, open_cluster, spread


async def start_and_join(cluster: Cluster, tasks: int) -> float:
    """Start four nodes with tasks, let a fifth one join, and return the seconds until loads are even."""
    nodes = [await cluster.start(name) for name in "abcd"]
    await cluster.submit(*(f"t{i}" for i in range(tasks)))
    await cluster.wait_until(lambda: len(cluster.running) == tasks, every=0.1)
    await trio.sleep(10)
    began = trio.current_time()
    nodes.append(await cluster.start("e"))
    await cluster.wait_until(lambda: spread(nodes) <= 1 and len(cluster.running) == tasks)
    return trio.current_time() - began


async def test_many_moves_on_a_slow_network(autojump_clock: MockClock) -> None:
    """400 tasks move in few round trips: with 16 at a time it would take 25 of them, 5 s and the settling."""
    async with open_cluster(latency=0.05) as cluster:
        assert await start_and_join(cluster, 2000) <= 2.0 + 2.4
        assert sum(cluster.starts.values()) == 2000 + 400  # the fewest possible


@pytest.mark.parametrize("most", [1, 5, 40])
async def test_never_more_than_the_limit(most: int, autojump_clock: MockClock) -> None:
    """A node never hands over more than `max_handovers` tasks at any moment, from their stop to their new owner."""
    async with open_cluster(latency=0.05) as cluster:
        reached = 0

        async def handler(task: RunningTask) -> None:
            nonlocal reached
            try:
                await trio.sleep_forever()
            finally:
                stopped = [
                    id for id in cluster.coordinator._store.view.owned_by(task.node) if id not in cluster.running
                ]
                reached = max(reached, len(stopped) + 1)

        a = await cluster.start("a", handler, max_handovers=most)
        await cluster.submit_until_running(*(f"t{i}" for i in range(300)))
        nodes = [a, await cluster.start("b")]
        await cluster.wait_until(lambda: spread(nodes) <= 1 and len(cluster.running) == 300, within=200)
        assert most / 2 <= reached <= most
        a.scope.cancel()
        await a.ended.wait()


async def test_few_bids_for_an_owner_that_answers_none(autojump_clock: MockClock) -> None:
    """A node has few bids at a time if they are not answered."""
    async with open_cluster() as cluster:
        await cluster.start("a", balancer=GreedyBalancer())
        await cluster.submit_until_running(*(f"t{i}" for i in range(300)))
        b = await cluster.start("b")
        most = 0
        for _ in range(300):
            await trio.sleep(0.5)
            most = max(most, cluster.coordinator._store.view.load(b.identity))
        assert most == 16


async def test_an_observer_makes_the_node_look_too_early(autojump_clock: MockClock) -> None:
    """If the claim of a closing task is removed by hand, and an observer makes the node forget the run before its Trio
    task has ended, the handover makes room for the next one all the same."""

    def looks_again(event: Event) -> None:
        if isinstance(event, TaskStopped):
            a.consumer.freeze()
            a.consumer.unfreeze()

    async def slow(task: RunningTask) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.0)

    async with open_cluster() as cluster:
        a = await cluster.start("a", slow, max_handovers=1, observers=[looks_again])
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        b = await cluster.start("b")
        await cluster.wait_until(lambda: len(a.tasks) == 3)
        (closing,) = {"t0", "t1", "t2", "t3"} - a.tasks
        b.consumer.freeze()  # it withdraws its bid, and does not claim the task while it still runs
        await cluster.wait_until(lambda: cluster.owners()[closing] == ["a"], within=0.5)
        cluster.remove_claim(closing)
        await cluster.wait_until(lambda: len(a.tasks) == 4)
        b.consumer.unfreeze()
        await cluster.wait_until(lambda: len(a.tasks) == len(b.tasks) == 2)
        assert sum(cluster.starts.values()) == 4 + 1 + 2
        a.scope.cancel()
        await a.ended.wait()
