"""Slow handovers: a bid that the owner has consented to waits as long as the task takes to stop."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Handler, NodeInfo, RunningTask
from metafora_trio._memory.store import Store
from metafora_trio.balancers import FairBalancer
from tests.support.nodes import Cluster, Node, open_cluster


def stops_after(seconds: float) -> Handler:
    """Return a handler whose task takes this long to stop once it has been cancelled."""

    async def handler(task: RunningTask) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    return handler


def bids_of(cluster: Cluster, node: Node) -> dict[str, int]:
    """Return the numbers of a node's claims and bids by task."""
    return {task: queue[0].seq for task, queue in cluster.coordinator._store.view.claims_of(node.identity).items()}


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[NodeInfo]:
    """Record the node records that nodes write."""
    records: list[NodeInfo] = []
    put_node = Store.put_node

    def recorded(self: Store, node: NodeInfo) -> None:
        records.append(node)
        put_node(self, node)

    monkeypatch.setattr(Store, "put_node", recorded)
    return records


@pytest.mark.parametrize("seconds", [60.0, 300.0])
async def test_bid_waits_for_a_slow_stop(seconds: float, autojump_clock: MockClock) -> None:
    """However long the tasks take to stop, each moves once, to the node that bid first."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", stops_after(seconds))
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        began = trio.current_time()
        b = await cluster.start("b")
        await trio.sleep(5)
        bids = bids_of(cluster, b)
        await cluster.wait_until(lambda: len(b.tasks) == 2, within=seconds)
        assert {task: run.token for task, run in b.consumer.tasks.items()} == bids
        assert trio.current_time() - began > seconds
        assert len(a.tasks) == 2
        assert sum(cluster.starts.values()) == 6
        a.scope.cancel()
        await a.ended.wait()


async def test_bid_waits_for_a_draining_node(autojump_clock: MockClock) -> None:
    """When a node drains, too, its tasks go to their heirs, however long they take to stop."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", stops_after(90), drain_timeout=200.0)
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        b = await cluster.start("b", capacity=0)
        await trio.sleep(5)
        c = await cluster.start("c", settle=0.0)
        a.consumer.start_draining()
        await trio.sleep(5)
        bids = bids_of(cluster, c)
        await cluster.wait_until(a.ended.is_set, within=100)
        await cluster.wait_until(lambda: len(c.tasks) == 4, within=1)
        assert {task: run.token for task, run in c.consumer.tasks.items()} == bids
        assert set(cluster.starts.values()) == {2}
        assert b.tasks == set()


async def test_bid_is_kept_when_loads_change_meanwhile(autojump_clock: MockClock) -> None:
    """While the owner stops a task for it, a node keeps its bid, even if the move no longer evens out the loads."""
    ended = trio.Event()

    class WantsT0(FairBalancer):
        def steal(self) -> list[str]:
            return ["t0"]

    async def handler(task: RunningTask) -> None:
        await (stops_after(60)(task) if task.id == "t0" else ended.wait())

    async with open_cluster() as cluster:
        a = await cluster.start("a", handler)
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        b = await cluster.start("b", balancer=WantsT0())
        await trio.sleep(20)
        bids = bids_of(cluster, b)
        ended.set()  # a has no other task any more
        await cluster.wait_until(lambda: b.tasks == {"t0"}, within=60)
        assert {"t0": b.consumer.tasks["t0"].token} == bids
        assert a.tasks == set()


async def test_only_slow_stops_are_announced(announced: list[NodeInfo], autojump_clock: MockClock) -> None:
    """A node announces which tasks it is stopping for others only if that takes longer than five seconds."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", stops_after(4.0))
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        b = await cluster.start("b")
        await cluster.wait_until(lambda: len(b.tasks) == 2)
        await trio.sleep(20)
        assert not any(node.handing_over for node in announced)
        a.scope.cancel()
        await a.ended.wait()


async def test_the_announcement_is_bounded_and_ends(announced: list[NodeInfo], autojump_clock: MockClock) -> None:
    """At most 16 tasks are announced, in few records, and none any more once they have moved."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", stops_after(30.0), max_handovers=100)
        tasks = [f"t{i}" for i in range(60)]
        await cluster.submit_until_running(*tasks)
        b = await cluster.start("b")
        c = await cluster.start("c")
        before = len(announced)
        await cluster.wait_until(lambda: len(b.tasks) == len(c.tasks) == 20, within=200)
        await trio.sleep(5)
        assert max(len(node.handing_over) for node in announced) == 16
        assert announced[-1].handing_over == ()
        assert len(announced) - before <= 40
        assert sum(cluster.starts.values()) == 60 + 40
        a.scope.cancel()
        await a.ended.wait()
