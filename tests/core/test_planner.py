"""The planner: when a node claims, bids and gives up, and what it does when others do not do their part."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import RunningTask
from metafora_trio._memory.session import MemorySession
from metafora_trio._model.plan import affinity_order
from metafora_trio._model.view import NodeRemoved
from metafora_trio.balancers import GreedyBalancer
from metafora_trio.contract import ClaimKind
from tests.support.nodes import open_cluster


async def test_settles_before_it_claims(autojump_clock: MockClock) -> None:
    """After a join nothing is claimed for `settle` seconds: more nodes may be about to come."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        await cluster.start("a", settle=5.0)
        await trio.sleep(4.9)
        assert cluster.owners() == {}
        await cluster.wait_running("t")


async def test_a_series_of_joins_delays_only_so_far(autojump_clock: MockClock) -> None:
    """Each join begins the settling anew, up to four times its length in all."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        for i in range(8):
            await cluster.start(f"n{i}", settle=2.0)
            await trio.sleep(1)
            assert (cluster.owners() != {}) == (trio.current_time() > 8.0)


async def test_nodes_that_start_together_share_without_moves(autojump_clock: MockClock) -> None:
    """On a cold start each task is attempted once, by the node whose it is."""
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
    """What a node had yet to claim when another joined is planned anew, with the newcomer's part in it."""
    monkeypatch.setattr("metafora_trio._node.planner._CLAIM_WINDOW", 1)
    async with open_cluster(latency=0.5) as cluster:
        await cluster.submit(*(f"t{i}" for i in range(20)))
        a = await cluster.start("a", settle=10.0, backup_delay=100.0)
        await cluster.wait_until(lambda: len(a.tasks) == 3)
        b = await cluster.start("b", settle=10.0, backup_delay=100.0)
        await trio.sleep(9)
        assert len(a.tasks) <= 6  # what was under way when it heard of the other
        await cluster.wait_until(lambda: len(cluster.running) == 20)
        assert abs(len(a.tasks) - len(b.tasks)) <= 1
        assert sum(cluster.starts.values()) == 20


async def test_next_node_steps_in(autojump_clock: MockClock) -> None:
    """A task whose first choice does not come is claimed by the next, and so on, after `backup_delay` each."""
    async with open_cluster() as cluster:
        silent = [await cluster.start(name) for name in "abc"]
        for node in silent:  # alive as far as anybody knows, but does nothing more
            cluster.coordinator.partition(node.identity)
        d = await cluster.start("d", backup_delay=4.0)
        await trio.sleep(5)
        identities = [node.identity for node in (*silent, d)]
        tasks = [f"t{i}" for i in range(12)]
        await cluster.submit(*tasks)
        submitted = trio.current_time()
        came: dict[str, float] = {}
        while trio.current_time() < submitted + 30:
            for task in d.tasks - came.keys():
                came[task] = trio.current_time() - submitted
            await trio.sleep(0.1)
        assert sorted(came) == sorted(tasks)
        for task in tasks:
            turn = affinity_order(task, identities).index(d.identity)
            planned = came[task] < 1
            assert planned or came[task] == pytest.approx(4 * (turn or 4), abs=3.5)


async def test_first_choice_that_declines(autojump_clock: MockClock) -> None:
    """A node whose balancer will not have a task leaves it to the next."""

    class Never(GreedyBalancer):
        def can_claim(self, task: str) -> bool:
            return False

    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=Never())
        b = await cluster.start("b")
        await cluster.submit(*(f"t{i}" for i in range(6)))
        await cluster.wait_until(lambda: len(b.tasks) == 6)
        assert a.tasks == set()


async def test_lost_race(autojump_clock: MockClock) -> None:
    """An attempt that came second is taken back at once, and means nothing to who came first."""
    async with open_cluster() as cluster:
        a, b = await cluster.start("a"), await cluster.start("b", capacity=0)
        await cluster.submit("t0", "t1", "t2")
        await cluster.wait_until(lambda: len(a.tasks) == 3)
        a.take_events()
        cluster.coordinator._store.add_claim("t0", b.identity, ClaimKind.CLAIM)
        await cluster.wait_until(lambda: cluster.owners()["t0"] == ["a"], within=0.02)
        assert (a.told(), b.told()) == ([], ["SessionOpened"])


async def test_unanswered_bid_is_withdrawn(autojump_clock: MockClock) -> None:
    """A bid that the owner never answers is withdrawn after 30 s (and 5 for the cleanup), and tried again later."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=GreedyBalancer())
        await cluster.submit("t0", "t1", "t2", "t3")
        await cluster.wait_until(lambda: len(a.tasks) == 4)
        began = trio.current_time()
        b = await cluster.start("b")
        spans: list[tuple[str, float]] = []
        had = False
        while trio.current_time() < began + 100:
            has = bool(cluster.coordinator._store.view.load(b.identity))
            if has != had:
                spans.append(("bids" if has else "withdraws", trio.current_time() - began))
            had = has
            await trio.sleep(0.1)
        assert [what for what, _ in spans[:4]] == ["bids", "withdraws"] * 2
        assert spans[1][1] - spans[0][1] == pytest.approx(35, abs=4)
        assert a.tasks == {"t0", "t1", "t2", "t3"}


async def test_bid_outlasts_a_long_grace(autojump_clock: MockClock) -> None:
    """A task that takes its time to stop for another node goes there all the same, and is stopped only once."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", grace=50.0)
        await cluster.submit("t0", "t1")
        await cluster.wait_until(lambda: len(a.tasks) == 2)
        b = await cluster.start("b", grace=50.0)
        await cluster.wait_until(lambda: len(b.tasks) == 1, within=70)
        assert sum(cluster.starts.values()) == 3


async def test_bid_is_withdrawn_once_it_is_unjustified(autojump_clock: MockClock) -> None:
    """When loads change so that a bid would not even them out any more, it goes, and the owner runs on."""
    async with open_cluster() as cluster:
        ends = trio.Event()

        async def until_told(task: RunningTask) -> None:
            await ends.wait() if task.id != "t0" else await trio.sleep_forever()

        a = await cluster.start("a", until_told, balancer=GreedyBalancer())
        await cluster.submit("t0", "t1", "t2", "t3")
        await cluster.wait_until(lambda: len(a.tasks) == 4)
        b = await cluster.start("b")
        truth = cluster.coordinator._store.view
        await cluster.wait_until(lambda: truth.load(b.identity) == 2)
        ends.set()
        await cluster.wait_until(lambda: truth.load(b.identity) == 0, within=4)
        assert a.tasks == {"t0"}


async def test_gone_owner_s_bids_come_true(autojump_clock: MockClock) -> None:
    """When an owner dies while others have bid, the first bid owns the task: it starts without another claim."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=GreedyBalancer())
        await cluster.submit("t0", "t1", "t2", "t3")
        await cluster.wait_until(lambda: len(a.tasks) == 4)
        b = await cluster.start("b")
        truth = cluster.coordinator._store.view
        await cluster.wait_until(lambda: truth.load(b.identity) == 2)
        bids = {task: claims[0].seq for task, claims in truth.claims_of(b.identity).items()}
        cluster.crash(a)
        await cluster.wait_until(lambda: len(b.tasks) == 4, within=0.1)
        assert {task: b.consumer.tasks[task].token for task in bids} == bids


async def test_bid_behind_a_node_that_is_going(autojump_clock: MockClock) -> None:
    """While the owner's node is gone already, and its claim not yet, a bid waits: it is about to own the task."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=GreedyBalancer())
        await cluster.submit("t0", "t1", "t2", "t3")
        await cluster.wait_until(lambda: len(a.tasks) == 4)
        b = await cluster.start("b")
        store = cluster.coordinator._store
        await cluster.wait_until(lambda: store.view.load(b.identity) == 2)
        store._commit(NodeRemoved(a.identity))
        await trio.sleep(5)
        assert store.view.load(b.identity) == 2
        cluster.crash(a)
        await cluster.wait_until(lambda: len(b.tasks) == 4)
        assert set(cluster.starts.values()) == {2}


async def test_session_without_room(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that can hold no more claims says so, takes nothing more, and is given nothing."""
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


async def test_nothing_is_planned_out_of_date(autojump_clock: MockClock) -> None:
    """A node that is cut off claims nothing, however long; once it is back it takes its part."""
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
    """While events wait to be applied nothing is planned, but not for ever."""
    monkeypatch.setattr(MemorySession, "quiet", False)
    async with open_cluster() as cluster:
        await cluster.submit("t")
        await cluster.start("a")
        await cluster.wait_running("t")
        assert trio.current_time() == pytest.approx(1.5 + 3.0, abs=0.1)
