"""Slow handovers: a bid that the owner has consented to waits as long as the task takes to stop."""

from __future__ import annotations

import math
from typing import Self

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Handler, NodeInfo, RunningTask
from metafora_trio._memory.store import Store
from metafora_trio._model.node_info import MAX_HANDING_OVER
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


class Stubborn:
    """The first tasks that are cancelled do not stop before `release`, which leaving the context sets."""

    def __init__(self, most: float = math.inf) -> None:
        self.tasks: set[str] = set()
        self.release = trio.Event()
        self._most = most

    async def __call__(self, task: RunningTask) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if len(self.tasks) < self._most and not self.release.is_set():
                self.tasks.add(task.id)
                with trio.CancelScope(shield=True):
                    await self.release.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()


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


async def test_every_slow_stop_is_announced(autojump_clock: MockClock) -> None:
    """However many tasks are stopping for others at once, each heir keeps its bid: no stop is in vain."""
    tasks = [f"t{i}" for i in range(45)]
    async with open_cluster() as cluster:
        a = await cluster.start("a", stops_after(90), drain_timeout=200.0)
        await cluster.submit_until_running(*tasks)
        a.consumer.freeze()
        heirs = [await cluster.start(name) for name in "bcd"]
        await trio.sleep(5)
        a.consumer.start_draining()
        await trio.sleep(5)
        bids = [bids_of(cluster, heir) for heir in heirs]
        assert sorted(task for of_one in bids for task in of_one) == sorted(tasks)
        await cluster.wait_until(a.ended.is_set, within=100)
        await cluster.wait_running(*tasks)
        assert [{task: run.token for task, run in heir.consumer.tasks.items()} for heir in heirs] == bids


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


@pytest.mark.parametrize(
    "max_handovers, stuck, tasks", [(1, 1, 8), (256, 16, 60), (256, 50, 200)], ids=["one", "as many", "more"]
)
async def test_a_task_that_never_stops_holds_up_no_other(
    max_handovers: int, stuck: int, tasks: int, autojump_clock: MockClock
) -> None:
    """If the first tasks that are to move never stop, the others move all the same, and the bids for these are kept."""
    async with open_cluster() as cluster:
        with Stubborn(stuck) as stubborn:
            a = await cluster.start("a", stubborn, max_handovers=max_handovers)
            await cluster.submit_until_running(*(f"t{i}" for i in range(tasks)))
            b = await cluster.start("b")
            await cluster.wait_until(lambda: len(b.tasks) == tasks // 2 - stuck)
            assert len(a.tasks) == tasks // 2
            bids = {task: seq for task, seq in bids_of(cluster, b).items() if task in stubborn.tasks}
            assert len(bids) == stuck
            await trio.sleep(200)
            assert len(b.tasks) == tasks // 2 - stuck
        await cluster.wait_until(lambda: len(b.tasks) == tasks // 2)
        assert bids == {task: run.token for task, run in b.consumer.tasks.items() if task in stubborn.tasks}
        assert sum(cluster.starts.values()) == tasks + tasks // 2


async def test_no_more_begin_than_can_be_announced(announced: list[NodeInfo], autojump_clock: MockClock) -> None:
    """A handover that could not be announced does not begin, because its heir would withdraw."""
    tasks = 2 * MAX_HANDING_OVER + 60
    async with open_cluster() as cluster:
        with Stubborn() as stubborn:
            a = await cluster.start("a", stubborn)
            await cluster.submit_until_running(*(f"t{i}" for i in range(tasks)))
            b = await cluster.start("b")
            await trio.sleep(300)
            assert len(a.tasks) == tasks - MAX_HANDING_OVER
            assert max(len(node.handing_over) for node in announced) == MAX_HANDING_OVER
        await cluster.wait_until(lambda: len(b.tasks) == tasks // 2)
        assert sum(cluster.starts.values()) == tasks + tasks // 2


async def test_the_announcement_is_bounded_and_ends(announced: list[NodeInfo], autojump_clock: MockClock) -> None:
    """Slow stops are announced in few records, and none any more once they have moved."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", stops_after(30.0), max_handovers=100)
        tasks = [f"t{i}" for i in range(60)]
        await cluster.submit_until_running(*tasks)
        b = await cluster.start("b")
        c = await cluster.start("c")
        before = len(announced)
        await cluster.wait_until(lambda: len(b.tasks) == len(c.tasks) == 20, within=200)
        await trio.sleep(5)
        assert max(len(node.handing_over) for node in announced) == 40
        assert announced[-1].handing_over == frozenset()
        assert len(announced) - before <= 40
        assert sum(cluster.starts.values()) == 60 + 40
        a.scope.cancel()
        await a.ended.wait()
