"""Membership: one session, through partitions, resyncs, the end of its lease, and its own end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import RunningTask, StopReason, TaskStatusName
from metafora_trio._memory.session import MemorySession
from metafora_trio._model.view import TaskRemoved
from metafora_trio.contract import StoredTask
from metafora_trio.events import LeaseAtRisk, SessionEnded, TaskStarted, TaskStopped
from tests.support.nodes import Node, open_cluster

T = 12.0
"""A session timeout in seconds. The lease cancels tasks 6 s after the last proof of life, and ends 7.64 s after it."""


async def cancel(node: Node) -> float:
    """Cancel a node, and return the seconds until it has ended."""
    began = trio.current_time()
    node.scope.cancel()
    await node.ended.wait()
    return trio.current_time() - began


async def test_events_of_a_handover(autojump_clock: MockClock) -> None:
    """The two nodes of a handover report these events, in this order, and no others."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running("t0", "t1")
        a.take_events()
        b = await cluster.start("b")
        await cluster.wait_until(lambda: len(b.tasks) == 1)
        (moved,) = b.tasks
        assert a.told() == [
            f"TaskStopping {moved} handed_over b",
            f"TaskStopped {moved} handed_over",
            f"TaskGivenUp {moved} b",
        ]
        events = b.take_events()
        token = b.consumer.tasks[moved].token
        assert [type(event).__name__ for event in events] == ["SessionOpened", "TaskClaimed", "TaskStarted"]
        assert events[2] == TaskStarted(b.identity, moved, token)


async def test_partition_that_heals(autojump_clock: MockClock) -> None:
    """While a node is cut off, its tasks keep running and it decides nothing. When the partition heals, it resyncs."""
    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a")
        b = await cluster.start("b", capacity=1)
        await cluster.submit_until_running("t0", "t1", "t2")
        moving, staying = sorted(a.tasks)
        cluster.coordinator.partition(a.identity)
        await trio.sleep(1)
        await cluster.client.delete(moving)
        await cluster.submit("t3")
        await trio.sleep(3)
        assert a.tasks == {moving, staying}
        assert cluster.starts["t3"] == 0
        a.take_events()
        cluster.coordinator.heal(a.identity)
        await cluster.wait_until(lambda: a.tasks == {staying, "t3"})
        assert a.told()[:3] == [
            f"TaskStopping {moving} deleted",
            f"TaskStopped {moving} deleted",
            f"TaskEnded {moving} killed",
        ]
        assert cluster.starts[staying] == 1
        assert len(b.tasks) == 1


async def test_task_that_ends_while_cut_off(autojump_clock: MockClock) -> None:
    """If a task ends during a partition, its end is reported when the partition heals."""
    async with open_cluster(session_timeout=T) as cluster:

        async def handler(task: RunningTask) -> None:
            await trio.sleep(2)

        a = await cluster.start("a", handler)
        await cluster.submit_until_running("t")
        cluster.coordinator.partition(a.identity)
        await trio.sleep(4)
        assert cluster.running == {}
        assert (await cluster.client.get("t")).state == "running"
        cluster.coordinator.heal(a.identity)
        assert (await cluster.client.wait(["t"]))["t"].state == TaskStatusName.COMPLETED
        assert cluster.starts["t"] == 1


async def test_cut_off_while_a_task_is_opened(autojump_clock: MockClock) -> None:
    """A task that a node is reading when it is cut off does not start before the partition heals."""
    async with open_cluster(latency=1.0) as cluster:
        a = await cluster.start("a", settle=0.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.consumer.statistics().tasks_open)
        cluster.coordinator.partition(a.identity)
        await trio.sleep(10)
        assert cluster.starts["t"] == 0
        cluster.coordinator.heal(a.identity)
        await cluster.wait_running("t")


async def test_lease_runs_out(autojump_clock: MockClock) -> None:
    """A node that can no longer be sure of its session closes its tasks before another node may start them."""
    async with open_cluster(session_timeout=T) as cluster:
        seen: list[tuple[StopReason | None, float]] = []
        stops: list[float] = []

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                seen.append((task.stop_reason, task.lease.remaining()))
                stops.append(trio.current_time())
                with task.cleanup():
                    await trio.sleep(60)
                stops.append(trio.current_time())

        a = await cluster.start("a", handler, grace=30.0, cleanup_timeout=30.0)
        await cluster.submit_until_running("t")
        task = a.consumer.tasks["t"]
        b = await cluster.start("b")
        await trio.sleep(5)
        assert 5.0 <= task.lease.remaining() <= 6.0
        a.take_events()
        cut = trio.current_time() + 0.5
        await trio.sleep_until(cut)
        proof = trio.current_time() + task.lease.remaining() - 6.0
        cluster.coordinator.partition(a.identity)
        await cluster.wait_until(lambda: b.tasks == {"t"})
        assert seen == [(StopReason.SESSION_LOST, 0.0)]
        assert stops == [pytest.approx(proof + 6.0), pytest.approx(proof + 12 * 2 / 3 - 0.36)]
        assert trio.current_time() >= stops[1]
        events = a.take_events()
        assert [type(event) for event in events] == [LeaseAtRisk, TaskStopped, SessionEnded]
        assert isinstance(events[0], LeaseAtRisk)
        assert events[0].remaining == pytest.approx(3.0)


async def test_lease_ends_while_a_task_is_opened(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is checked in the step that opens the scope, because the process may have been frozen before it."""
    original = MemorySession.read
    frozen = [T]

    async def read(self: MemorySession, task: str) -> StoredTask | None:
        record = await original(self, task)
        if frozen:
            autojump_clock.jump(frozen.pop())
        return record

    async with open_cluster(session_timeout=T) as cluster:
        monkeypatch.setattr(MemorySession, "read", read)
        a = await cluster.start("a")
        first = a.identity
        await cluster.submit_until_running("t")
        assert frozen == []
        told = a.told()
        assert told.index("TaskStarted t") > told.index(f"SessionEnded the session of node {first} has ended")


async def test_lease_at_risk_is_reported_once_each_time(autojump_clock: MockClock) -> None:
    """A partition that heals in time causes one warning and nothing else, even before the lease is first renewed."""
    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a")
        cluster.coordinator.partition(a.identity)
        await trio.sleep(3.5)
        assert a.told() == ["SessionOpened", "LeaseAtRisk"]
        for _ in range(2):
            cluster.coordinator.heal(a.identity)
            await trio.sleep(5)
            assert a.told() == []
            cluster.coordinator.partition(a.identity)
            await trio.sleep(3.5)
            assert a.told() == ["LeaseAtRisk"]
        cluster.coordinator.heal(a.identity)


async def test_ends_are_reported_by_a_node_that_stops(autojump_clock: MockClock) -> None:
    """If a task ends just before its node is cancelled, the node still reports the end: the task does not run again."""
    async with open_cluster(latency=0.5) as cluster:
        ends = trio.Event()

        async def handler(task: RunningTask) -> None:
            await ends.wait()

        a = await cluster.start("a", handler)
        await cluster.submit_until_running("t0", "t1")
        ends.set()
        await cluster.wait_until(lambda: not cluster.running)
        assert await cancel(a) == pytest.approx(1.0, abs=0.1)  # one round trip
        states = await cluster.client.wait(["t0", "t1"], timeout=1)
        assert {status.state for status in states.values()} == {TaskStatusName.COMPLETED}


async def test_flush_is_bounded(autojump_clock: MockClock) -> None:
    """A cancelled node waits at most two seconds for a slow broker, and not at all if it is cut off."""
    async with open_cluster(latency=30.0) as cluster:

        async def handler(task: RunningTask) -> None:
            await trio.sleep(1)

        a = await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.wait_until(lambda: cluster.starts["t"], within=300)
        await cluster.wait_until(lambda: not cluster.running)
        assert await cancel(a) == pytest.approx(2.0)
    async with open_cluster() as cluster:
        b = await cluster.start("b", handler)
        await cluster.submit_until_running("t")
        cluster.coordinator.partition(b.identity)
        await cluster.wait_until(lambda: not cluster.running)
        assert await cancel(b) == 0


async def test_end_that_races_with_the_end_of_the_node(autojump_clock: MockClock) -> None:
    """A handler that catches its cancellation and returns has completed its task, even if the node was cancelled."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:  # noqa: ASYNC103 - the point of this test
                pass

        a = await cluster.start("a", handler)
        await cluster.submit_until_running("t")
        await cancel(a)
        assert (await cluster.client.get("t")).state == TaskStatusName.COMPLETED
        assert cluster.starts["t"] == 1


async def test_many_changes_at_once(autojump_clock: MockClock) -> None:
    """A node handles a thousand tasks that are added at once, and 600 that are deleted at once, and misses none."""
    async with open_cluster() as cluster:
        ids = [f"t{i:04}" for i in range(1000)]
        a = await cluster.start("a")
        await cluster.submit_until_running(*ids)
        await cluster.client.delete(*ids[:600])
        await cluster.wait_until(lambda: len(a.tasks) == 400 and len(cluster.owners()) == 400)


async def test_task_removed_by_hand(autojump_clock: MockClock) -> None:
    """A task that is removed from the broker by hand stops. Its end is not reported for a new task with the same id."""
    async with open_cluster() as cluster:
        ends = trio.Event()

        async def handler(task: RunningTask) -> None:
            await task.stopping.wait()
            await ends.wait()

        a = await cluster.start("a", handler, grace=100.0)
        await cluster.submit_until_running("t")
        store = cluster.coordinator._store
        a.take_events()
        del store.tasks["t"]
        store.states.pop("t")
        store._commit(TaskRemoved("t"))
        await cluster.submit("t")
        await trio.sleep(1)
        assert a.told() == ["TaskStopping t deleted"]
        ends.set()
        await cluster.wait_until(lambda: cluster.starts["t"] == 2)
        assert a.told()[:2] == ["TaskStopped t deleted", "TaskGivenUp t"]
        assert (await cluster.client.get("t")).state == "running"
