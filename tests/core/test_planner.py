"""Planner: decides when a node claims, bids and withdraws, also when other nodes do not do their part."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Handler, RunningTask
from metafora_trio._memory.session import MemorySession
from metafora_trio._model.plan import plan
from metafora_trio._model.turns import StepInOrder
from metafora_trio._model.view import NodeRemoved
from metafora_trio.balancers import GreedyBalancer
from metafora_trio.contract import ClaimKind
from tests.support.nodes import Cluster, Node, open_cluster, run_for_ever


async def start_with_unanswered_bids(cluster: Cluster, handler: Handler = run_for_ever) -> tuple[Node, Node]:
    """Start node a, which owns t0 to t3 and hands nothing over, and node b, which bids for two of them."""
    a = await cluster.start("a", handler, balancer=GreedyBalancer())
    await cluster.submit_until_running("t0", "t1", "t2", "t3")
    b = await cluster.start("b")
    await cluster.wait_until(lambda: cluster.coordinator._store.view.load(b.identity) == 2)
    return a, b


async def test_settles_before_it_claims(autojump_clock: MockClock) -> None:
    """After a join, no node claims a task for `settle` seconds, because more nodes may be joining."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        await cluster.start("a", settle=5.0)
        await trio.sleep(4.9)
        assert cluster.owners() == {}
        await cluster.wait_running("t")


async def test_a_series_of_joins_delays_only_so_far(autojump_clock: MockClock) -> None:
    """Each join restarts the settle time, but a series of joins delays claims by at most four times `settle`."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        for i in range(8):
            await cluster.start(f"n{i}", settle=2.0)
            await trio.sleep(1)
            assert (cluster.owners() != {}) == (trio.current_time() > 8.0)


async def test_nodes_that_start_together_share_without_moves(autojump_clock: MockClock) -> None:
    """On a cold start, almost every task is claimed only once, by the node that the plan gives it to."""
    async with open_cluster(latency=0.02) as cluster:
        await cluster.submit(*(f"t{i:03}" for i in range(200)))
        nodes = []
        for name in "abcde":
            nodes.append(await cluster.start(name))
            await trio.sleep(0.2)
        await cluster.wait_until(lambda: len(cluster.running) == 200)
        attempts = cluster.coordinator._store.number() - 1
        await trio.sleep(10)
        assert [len(node.tasks) for node in nodes] == [40] * 5
        assert sum(cluster.starts.values()) == 200
        assert attempts <= 200 * 1.2 + 5


async def test_a_join_ends_the_old_plan(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a node joins, the others drop the rest of their plans. The next plan includes the new node."""
    monkeypatch.setattr("metafora_trio._node.planner._CLAIM_WINDOW", 1)
    async with open_cluster(latency=0.5) as cluster:
        await cluster.submit(*(f"t{i}" for i in range(20)))
        a = await cluster.start("a", settle=10.0, backup_delay=100.0)
        await cluster.wait_until(lambda: len(a.tasks) == 3)
        b = await cluster.start("b", settle=10.0, backup_delay=100.0)
        await trio.sleep(9)
        assert len(a.tasks) <= 6  # the claims in flight when a learned that b had joined
        await cluster.wait_until(lambda: len(cluster.running) == 20)
        assert abs(len(a.tasks) - len(b.tasks)) <= 1
        assert sum(cluster.starts.values()) == 20


async def test_next_node_steps_in(autojump_clock: MockClock) -> None:
    """If the first choice does not claim a task, the next node in order steps in after each `backup_delay`."""
    async with open_cluster() as cluster:
        silent = [await cluster.start(name) for name in "abc"]
        for node in silent:  # other nodes still see it, but it claims nothing more
            cluster.coordinator.partition(node.identity)
        d = await cluster.start("d", backup_delay=4.0, balancer=GreedyBalancer())
        await trio.sleep(5)
        tasks = [f"t{i}" for i in range(12)]
        await cluster.submit(*tasks)
        submitted = trio.current_time()
        heirs = plan(cluster.coordinator._store.view, d.identity, even=False)
        delays: dict[str, float] = {}
        while trio.current_time() < submitted + 30:
            for task in d.tasks - delays.keys():
                delays[task] = trio.current_time() - submitted
            await trio.sleep(0.1)
        assert sorted(delays) == sorted(tasks)
        order = StepInOrder(node.identity for node in (*silent, d))
        for task, heir in heirs.items():
            steps_in = (turn for turn in (1, 2, 3) if order.node_at(task, turn, first=heir) == d.identity)
            turn = 0 if heir == d.identity else next(steps_in)
            assert 4 * turn <= delays[task] < 4 * turn + 4


async def test_first_choice_that_declines(autojump_clock: MockClock) -> None:
    """If the balancer of the first choice refuses a task, the next node claims it."""

    class Never(GreedyBalancer):
        def can_claim(self, task: str) -> bool:
            return False

    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=Never())
        b = await cluster.start("b")
        await cluster.submit_until_running(*(f"t{i}" for i in range(6)))
        assert (len(a.tasks), len(b.tasks)) == (0, 6)


async def test_lost_race(autojump_clock: MockClock) -> None:
    """A claim that comes second is removed at once, and the owner is not disturbed."""
    async with open_cluster() as cluster:
        a, b = await cluster.start("a"), await cluster.start("b", capacity=0)
        await cluster.submit_until_running("t0", "t1", "t2")
        a.take_events()
        cluster.coordinator._store.add_claim("t0", b.identity, ClaimKind.CLAIM)
        await cluster.wait_until(lambda: cluster.owners()["t0"] == ["a"], within=0.02)
        assert (a.told(), b.told()) == ([], ["SessionOpened"])


async def test_unanswered_bid_is_withdrawn(autojump_clock: MockClock) -> None:
    """A bid that the owner never answers is withdrawn after 30 s, plus 5 s for the cleanup, and repeated later."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=GreedyBalancer())
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        began = trio.current_time()
        b = await cluster.start("b")
        changes: list[tuple[str, float]] = []
        had_bids = False
        while trio.current_time() < began + 100:
            has_bids = bool(cluster.coordinator._store.view.load(b.identity))
            if has_bids != had_bids:
                changes.append(("bids" if has_bids else "withdraws", trio.current_time() - began))
            had_bids = has_bids
            await trio.sleep(0.1)
        assert [change for change, _ in changes[:4]] == ["bids", "withdraws"] * 2
        assert changes[1][1] - changes[0][1] == pytest.approx(35, abs=4)
        assert a.tasks == {"t0", "t1", "t2", "t3"}


async def test_bid_outlasts_a_long_grace(autojump_clock: MockClock) -> None:
    """A task with a long grace is still handed over, and stops only once."""
    async with open_cluster() as cluster:
        await cluster.start("a", grace=50.0)
        await cluster.submit_until_running("t0", "t1")
        b = await cluster.start("b", grace=50.0)
        await cluster.wait_until(lambda: len(b.tasks) == 1, within=70)
        assert sum(cluster.starts.values()) == 3


async def test_bid_is_withdrawn_once_it_is_unjustified(autojump_clock: MockClock) -> None:
    """A bid that would no longer even out the loads is withdrawn, and the owner keeps running the task."""
    async with open_cluster() as cluster:
        most_tasks_end = trio.Event()

        async def handler(task: RunningTask) -> None:
            await most_tasks_end.wait() if task.id != "t0" else await trio.sleep_forever()

        a, b = await start_with_unanswered_bids(cluster, handler)
        most_tasks_end.set()
        await cluster.wait_until(lambda: cluster.coordinator._store.view.load(b.identity) == 0, within=4)
        assert a.tasks == {"t0"}


async def test_bid_owns_the_task_after_the_owner_crashes(autojump_clock: MockClock) -> None:
    """If an owner crashes, the first bid owns the task, which starts without another claim."""
    async with open_cluster() as cluster:
        a, b = await start_with_unanswered_bids(cluster)
        bids = {task: queue[0].seq for task, queue in cluster.coordinator._store.view.claims_of(b.identity).items()}
        cluster.crash(a)
        await cluster.wait_until(lambda: len(b.tasks) == 4, within=0.1)
        assert {task: b.consumer.tasks[task].token for task in bids} == bids


async def test_bid_behind_a_claim_of_a_node_that_has_left(autojump_clock: MockClock) -> None:
    """If an owner's node has left but its claim still exists, a bid is kept, because it will soon own the task."""
    async with open_cluster() as cluster:
        a, b = await start_with_unanswered_bids(cluster)
        store = cluster.coordinator._store
        store._commit(NodeRemoved(a.identity))
        await trio.sleep(5)
        assert store.view.load(b.identity) == 2
        cluster.crash(a)
        await cluster.wait_until(lambda: len(b.tasks) == 4)
        assert set(cluster.starts.values()) == {2}


async def test_full_session(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that can hold no more claims announces that, claims nothing more, and no plan gives it a task."""
    monkeypatch.setattr(MemorySession, "free_claims", property(lambda self: 3 - self.view.load(self.node.identity)))
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit(*(f"t{i}" for i in range(5)))
        await cluster.wait_until(lambda: len(a.tasks) == 3)
        await trio.sleep(20)
        assert len(a.tasks) == 3
        (node,) = await cluster.client.nodes()
        assert node.node.full
        b = await cluster.start("b")
        await cluster.wait_until(lambda: len(cluster.running) == 5)
        await cluster.client.delete(*sorted(a.tasks)[:2])
        await trio.sleep(10)
        assert not any(node.node.full for node in await cluster.client.nodes())
        assert len(a.tasks) + len(b.tasks) == 3


async def test_no_plan_from_an_outdated_view(autojump_clock: MockClock) -> None:
    """A node that is cut off claims nothing. It claims its share after the partition has healed."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await trio.sleep(5)
        cluster.coordinator.partition(a.identity)
        await cluster.submit("t")
        await trio.sleep(20)
        assert a.consumer.statistics().requests_outstanding == 0
        cluster.coordinator.heal(a.identity)
        await cluster.wait_running("t")


async def test_waits_for_a_quiet_view(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node does not plan while events wait to be applied, but after three seconds it plans anyway."""
    monkeypatch.setattr(MemorySession, "quiet", False)
    async with open_cluster() as cluster:
        await cluster.submit("t")
        await cluster.start("a")
        await cluster.wait_running("t")
        assert trio.current_time() == pytest.approx(1.5 + 3.0, abs=0.1)
