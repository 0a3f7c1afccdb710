"""Suspension: a node on which one task after another fails takes no more, says so, and tries again."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import RunningTask, StateName
from metafora_trio._memory.session import MemorySession
from metafora_trio.contract import ClaimKind, StoredTask
from metafora_trio.events import NodeResumed, NodeSuspended, TaskEnded
from tests.support.nodes import Cluster, Node, open_cluster


async def fails(task: RunningTask) -> None:
    """Fail at once, as after a bad deployment."""
    raise RuntimeError("bad deployment")


def failed(cluster: Cluster) -> int:
    """Return how many tasks have failed."""
    return sum(state.state is StateName.FAILED for state in cluster.coordinator._store.states.values())


def suspensions(node: Node) -> list[tuple[int, float]]:
    """Return the numbers of failures and the pauses of the suspensions reported since the last call."""
    return [(e.failures, round(e.seconds, 1)) for e in node.take_events() if isinstance(e, NodeSuspended)]


async def notices(cluster: Cluster, node: Node) -> tuple[str, ...]:
    (record,) = [status.node for status in await cluster.client.nodes() if status.node.identity == node.identity]
    return record.notices


async def test_a_bad_deployment_costs_few_tasks(autojump_clock: MockClock) -> None:
    """A node whose handler always fails looks idle, but it gets only a few tasks of a cluster."""
    async with open_cluster(latency=0.01) as cluster:
        for name in "abc":
            await cluster.start(name)
        await cluster.submit_until_running(*(f"t{i:02}" for i in range(20)))
        bad = await cluster.start("bad", fails)
        await trio.sleep(60)
        assert 3 <= failed(cluster) <= 3 + 5  # three in a row, and then one after 5, 10, 20 s
        assert len(cluster.running) == 20 - failed(cluster)
        reported = suspensions(bad)
        assert reported[0] == (3, 5.0)
        (notice,) = await notices(cluster, bad)
        assert notice.startswith(f"the last {reported[-1][0]} tasks that it tried have failed: it takes no more")


async def test_a_cold_start_with_a_bad_handler(autojump_clock: MockClock) -> None:
    """Even if a node gets many tasks in one moment, only a few fail. The others are given up, and run elsewhere."""
    async with open_cluster(latency=0.01) as cluster:
        await cluster.submit(*(f"t{i:03}" for i in range(300)))
        await cluster.start("bad", fails)
        await cluster.wait_until(lambda: failed(cluster) == 3)
        await cluster.wait_until(lambda: not cluster.owners(), within=0.1)
        good = await cluster.start("good")
        await cluster.wait_until(lambda: len(good.tasks) > 290)
        assert failed(cluster) <= 3 + 2


async def test_a_burst_after_a_failure(autojump_clock: MockClock) -> None:
    """After a single failure, too, few tasks start at once, and the rest a quarter of a second later."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id == "bad":
                raise RuntimeError("no")
            await trio.sleep_forever()

        await cluster.start("a", handler)
        await cluster.submit_until_running("t")
        await trio.sleep(10)
        await cluster.submit(*(f"t{i:03}" for i in range(50)))
        await cluster.wait_until(lambda: cluster.starts)
        await cluster.wait_until(lambda: len(cluster.running) > 1)
        assert len(cluster.running) == 51  # no failure so far
        await cluster.submit("bad")
        await cluster.wait_until(lambda: failed(cluster) == 1)
        await cluster.submit(*(f"u{i:03}" for i in range(50)))
        await cluster.wait_until(lambda: len(cluster.running) > 51)
        assert len(cluster.running) <= 51 + 3
        await cluster.wait_until(lambda: len(cluster.running) == 101, within=0.6)


async def test_trials_go_on_until_one_succeeds(autojump_clock: MockClock) -> None:
    """While all tasks fail, the node tries one after each pause. The first success ends that, with all it announced."""
    fixed = trio.Event()

    async def handler(task: RunningTask) -> None:
        if not fixed.is_set():
            raise RuntimeError("no")

    async with open_cluster() as cluster:
        a = await cluster.start("a", handler)
        await cluster.submit(*(f"t{i:02}" for i in range(40)))
        ends: list[float] = []
        counted = 0
        while trio.current_time() < 170:
            if failed(cluster) != counted:
                counted = failed(cluster)
                ends.append(trio.current_time())
            await trio.sleep(0.1)
        assert counted == 3 + len(ends) - 1
        pauses = [later - before for before, later in itertools.pairwise(ends)]
        assert pauses == [pytest.approx(pause, abs=1.5) for pause in (5, 10, 20, 40, 80)]
        fixed.set()
        await cluster.wait_until(lambda: not cluster.coordinator._store.tasks, within=170)
        assert any(isinstance(event, NodeResumed) for event in a.take_events())
        await trio.sleep(5)
        assert await notices(cluster, a) == ()
        assert not (await cluster.client.nodes())[0].node.full


async def test_a_task_that_lasts_ends_it(autojump_clock: MockClock) -> None:
    """A task on trial that runs on speaks for the node, which then takes tasks again as before."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id.startswith("bad"):
                raise RuntimeError("no")
            await trio.sleep_forever()

        a = await cluster.start("a", handler)
        await cluster.submit("bad0", "bad1", "bad2")
        await cluster.wait_until(lambda: failed(cluster) == 3)
        await cluster.submit(*(f"t{i}" for i in range(10)))
        await cluster.wait_until(lambda: a.tasks)
        await trio.sleep(4.9)
        assert len(a.tasks) == 1
        await cluster.wait_until(lambda: len(a.tasks) == 10, within=5)


async def test_a_trial_that_has_not_started_does_not_last(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time until a task was read says nothing about the handler. It counts from when the task starts."""
    read = MemorySession.read

    async def slow_read(self: MemorySession, task: str) -> StoredTask | None:
        if task.startswith("t"):
            await trio.sleep(100)
        return await read(self, task)

    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id.startswith("bad"):
                raise RuntimeError("no")
            await trio.sleep_forever()

        a = await cluster.start("a", handler)
        await cluster.submit("bad0", "bad1", "bad2")
        await cluster.wait_until(lambda: failed(cluster) == 3)
        monkeypatch.setattr(MemorySession, "read", slow_read)
        await cluster.submit(*(f"t{i}" for i in range(10)))
        await cluster.wait_until(lambda: cluster.owners(), within=10)
        await trio.sleep(99)
        assert (len(cluster.owners()), len(a.tasks)) == (1, 0)
        await cluster.wait_until(lambda: a.tasks, within=5)
        await cluster.wait_until(lambda: len(cluster.owners()) == 10, within=10)


@pytest.mark.parametrize("fails_in_the_end", [False, True])
async def test_a_trial_that_was_told_to_stop_does_not_last(fails_in_the_end: bool, autojump_clock: MockClock) -> None:
    """A task that takes a minute to stop has not run for a minute. If it fails then, that shows nothing either."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id.startswith("bad"):
                raise RuntimeError("no")
            await task.stopping.wait()
            await trio.sleep(80)
            if fails_in_the_end:
                raise RuntimeError("no")
            await trio.sleep_forever()

        a = await cluster.start("a", handler, grace=90.0)
        await cluster.submit("bad0", "bad1", "bad2")
        await cluster.wait_until(lambda: failed(cluster) == 3)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.tasks)
        await cluster.client.stop_task("t")
        await trio.sleep(82)
        assert failed(cluster) == 3 + fails_in_the_end
        assert not [event for event in a.take_events() if isinstance(event, NodeResumed)]
        assert len(await notices(cluster, a)) == 1


async def test_a_few_bad_tasks_do_not_suspend_a_node_that_does_its_work(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id.startswith("bad"):
                raise RuntimeError("no")
            await trio.sleep_forever()

        a = await cluster.start("a", handler)
        await cluster.submit_until_running("t0", "t1")
        await trio.sleep(6)
        await cluster.submit(*(f"bad{i}" for i in range(5)))
        await cluster.wait_until(lambda: failed(cluster) == 5)
        await cluster.submit("t2")
        await cluster.wait_until(lambda: "t2" in a.tasks, within=1)
        assert suspensions(a) == []


async def test_a_trial_that_is_stopped_is_repeated(autojump_clock: MockClock) -> None:
    """If the task on trial is deleted before it has failed or succeeded, the node takes another one at once."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id.startswith("bad"):
                raise RuntimeError("no")
            await trio.sleep_forever()

        a = await cluster.start("a", handler)
        await cluster.submit("bad0", "bad1", "bad2")
        await cluster.wait_until(lambda: failed(cluster) == 3)
        await cluster.submit("t0", "t1")
        await cluster.wait_until(lambda: len(a.tasks) == 1)
        (first,) = a.tasks
        await cluster.client.delete(first)
        await cluster.wait_until(lambda: len(a.tasks) == 1 and a.tasks != {first}, within=4)


async def test_a_trial_that_is_not_got_is_repeated(autojump_clock: MockClock) -> None:
    """If another node is faster, or the owner does not consent, the node tries another task."""
    async with open_cluster() as cluster:
        await cluster.start("keeps", max_handovers=0)
        await cluster.submit_until_running(*(f"t{i}" for i in range(8)))
        done = trio.Event()

        async def handler(task: RunningTask) -> None:
            if task.id.startswith("bad"):
                raise RuntimeError("no")
            done.set()

        a = await cluster.start("a", handler, suspend_after_failures=1)
        cluster.coordinator._store.add_claim("bad", a.identity, ClaimKind.CLAIM)
        await cluster.submit("bad")
        await trio.sleep(50)
        assert failed(cluster) == 1
        bids = cluster.coordinator._store.view.claims_of(a.identity)
        assert len(bids) == 1
        (first,) = bids
        await cluster.wait_until(lambda: first not in bids_of(cluster, a), within=60)
        await cluster.wait_until(lambda: bids_of(cluster, a) and first not in bids_of(cluster, a), within=60)


def bids_of(cluster: Cluster, node: Node) -> set[str]:
    return set(cluster.coordinator._store.view.claims_of(node.identity))


async def test_bids_are_withdrawn(autojump_clock: MockClock) -> None:
    """A suspended node withdraws its bids at once, so their owners keep the tasks without a gap."""
    async with open_cluster() as cluster:
        await cluster.start("keeps", max_handovers=0)
        await cluster.submit_until_running(*(f"t{i}" for i in range(8)))
        broken = trio.Event()

        async def handler(task: RunningTask) -> None:
            await broken.wait()
            raise RuntimeError("no")

        a = await cluster.start("a", handler, suspend_after_failures=1)
        await cluster.submit_until_running("u")
        await cluster.wait_until(lambda: len(bids_of(cluster, a)) > 2)
        broken.set()
        await cluster.wait_until(lambda: not bids_of(cluster, a), within=0.1)
        await trio.sleep(4)
        assert not bids_of(cluster, a)
        assert {cluster.starts[f"t{i}"] for i in range(8)} == {1}


async def test_switched_off(autojump_clock: MockClock) -> None:
    """With `suspend_after_failures=None`, a node runs any number of tasks that fail."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", fails, suspend_after_failures=None)
        await cluster.submit(*(f"t{i}" for i in range(30)))
        await cluster.wait_until(lambda: failed(cluster) == 30, within=5)
        assert suspensions(a) == []


async def test_it_outlasts_the_session(autojump_clock: MockClock) -> None:
    """A new session changes nothing about the handler: the node stays suspended, and says so again."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", fails)
        await cluster.submit(*(f"t{i}" for i in range(4)))
        await cluster.wait_until(lambda: suspensions(a))
        cluster.coordinator.expire(a.identity)
        await trio.sleep(4)
        assert [failures for failures, _ in suspensions(a)] == [3]
        assert len(await notices(cluster, a)) == 1


async def test_failures_far_apart_with_successes_between(autojump_clock: MockClock) -> None:
    """Tasks that fail now and then suspend nothing."""

    async def handler(task: RunningTask) -> None:
        if task.props["bad"]:
            raise RuntimeError("no")

    async with open_cluster() as cluster:
        a = await cluster.start("a", handler)
        for i in range(12):
            await cluster.submit(f"t{i}", bad=i % 3 != 0)
            await cluster.wait_until(lambda: not cluster.coordinator._store.tasks, within=4)
        assert suspensions(a) == []
        assert sum(isinstance(event, TaskEnded) for event in a.take_events()) == 0


@pytest.mark.parametrize("capacity, announced", [(None, 3), (10, 3), (3, 3)])
async def test_room_on_trial(capacity: int | None, announced: int, autojump_clock: MockClock) -> None:
    """Before a trial the node announces that it is full, and then room for one more task than it has."""

    async def handler(task: RunningTask) -> None:
        if not task.id.startswith("long"):
            await trio.sleep(2)  # so that the long ones have not lasted much longer
            raise RuntimeError("no")
        await trio.sleep_forever()

    async def record() -> tuple[int | None, bool]:
        (status,) = await cluster.client.nodes()
        return status.node.capacity, status.node.full

    async with open_cluster() as cluster:
        await cluster.start("a", handler, capacity=capacity, suspend_after_failures=1)
        await cluster.submit_until_running("long0", "long1")
        await cluster.submit("bad")
        await cluster.wait_until(lambda: failed(cluster) == 1)
        await trio.sleep(4)
        assert await record() == (capacity, True)
        await trio.sleep(5)
        assert await record() == (announced, False)
        await cluster.submit("long2")
        await cluster.wait_running("long2")
        await trio.sleep(4)
        assert await record() == (capacity, True)
        await trio.sleep(60)
        assert await record() == (capacity, False)
