"""Leaving: by a drain, which hands everything over, or by a cancellation, which stops everything at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import (
    Consumer,
    RunningTask,
    StopReason,
)
from tests.support.nodes import open_cluster, run_for_ever, spread


async def test_drain_with_heirs(autojump_clock: MockClock) -> None:
    """A node that leaves runs each task until another is there for it: no gap, and it ends when all are gone."""
    async with open_cluster(latency=0.01) as cluster:
        a, b, c = [await cluster.start(name) for name in "abc"]
        await cluster.submit(*(f"t{i}" for i in range(9)))
        await cluster.wait_until(lambda: len(cluster.running) == 9)
        moving = a.tasks
        gaps: dict[str, float] = dict.fromkeys(moving, 0.0)

        async def watch() -> None:
            while True:
                for task in moving - set(cluster.running):
                    gaps[task] += 0.005
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            began = trio.current_time()
            await a.consumer.drain()
            assert trio.current_time() - began < 3.0
            await cluster.wait_until(lambda: len(cluster.running) == 9)
            nursery.cancel_scope.cancel()
        assert a.ended.is_set()
        assert spread([b, c]) <= 1
        assert max(gaps.values()) <= 0.05  # the way of one event and of one read
        told = a.told()
        assert told[-1] == "SessionEnded"
        assert {line for line in told if line.startswith("TaskStopped")} == {f"TaskStopped {t} drained" for t in moving}


async def test_drain_alone(autojump_clock: MockClock) -> None:
    """With nobody left to take over, a node stops what it has and leaves at once."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        began = trio.current_time()
        await node.consumer.drain()
        assert trio.current_time() - began < 0.1
        assert node.told()[-4:] == [
            "TaskStopping t drained",
            "TaskStopped t drained",
            "TaskGivenUp t",
            "SessionEnded",
        ]


async def test_two_drain_at_once(autojump_clock: MockClock) -> None:
    """Nodes that leave together do not wait for each other."""
    async with open_cluster(latency=0.01) as cluster:
        a, b = await cluster.start("a"), await cluster.start("b")
        await cluster.submit(*(f"t{i}" for i in range(6)))
        await cluster.wait_until(lambda: len(cluster.running) == 6)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.consumer.drain)
            nursery.start_soon(b.consumer.drain)
        assert trio.current_time() - began < 1.0


async def test_drain_deadline(autojump_clock: MockClock) -> None:
    """Tasks that nobody takes are stopped after `drain_timeout`."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", drain_timeout=7.0)
        await cluster.submit_until_running("t")
        await cluster.start("b", capacity=0)
        await trio.sleep(1)
        began = trio.current_time()
        await a.consumer.drain()
        assert trio.current_time() - began == pytest.approx(7.0, abs=0.1)


async def test_drain_of_an_idle_node_and_twice(autojump_clock: MockClock) -> None:
    """A node without tasks leaves at once; a drain of who is not there only yields."""
    async with open_cluster(latency=0.1) as cluster:
        node = await cluster.start("a")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.consumer.drain)
            nursery.start_soon(node.consumer.drain)
        assert trio.current_time() - began < 0.5
        with trio.testing.assert_checkpoints():
            await node.consumer.drain()


async def test_drain_outlasts_who_asked_for_it(autojump_clock: MockClock) -> None:
    """Cancelling `drain` does not end the drain."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", drain_timeout=5.0)
        await cluster.start("b", capacity=0)
        await cluster.submit_until_running("t")
        with trio.move_on_after(1.0):
            await node.consumer.drain()
        assert repr(node.consumer) == "<Consumer 'a' draining, 1 tasks>"
        assert not node.ended.is_set()
        await cluster.wait_until(node.ended.is_set, within=5.0)


async def test_draining_node_claims_nothing(autojump_clock: MockClock) -> None:
    """While it leaves, it neither claims nor starts anything, whatever is submitted."""
    async with open_cluster(latency=0.05) as cluster:
        a = await cluster.start("a", drain_timeout=20.0)
        await cluster.submit_until_running("t")
        await cluster.start("b", capacity=0)
        await trio.sleep(1)
        a.consumer.start_draining()
        await cluster.submit("u")
        await trio.sleep(15)
        assert a.tasks == {"t"}
        assert cluster.starts["u"] == 0


async def test_drain_while_a_claim_is_under_way(autojump_clock: MockClock) -> None:
    """A claim that comes in while the node leaves is given up, not started, and the node still ends."""
    async with open_cluster(latency=0.5) as cluster:
        a = await cluster.start("a", settle=0.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.consumer.statistics().requests_outstanding)
        began = trio.current_time()
        await a.consumer.drain()
        assert trio.current_time() - began >= 1.0  # it has heard of everything that it asked for
        assert cluster.starts["t"] == 0


async def test_drain_while_a_task_is_opened(autojump_clock: MockClock) -> None:
    """A task whose properties are being read when the node begins to leave is not started any more."""
    async with open_cluster(latency=0.5) as cluster:
        a = await cluster.start("a", settle=0.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.consumer.statistics().tasks_open)
        await a.consumer.drain()
        assert cluster.starts["t"] == 0
        assert [line for line in a.told() if "Task" in line] == ["TaskClaimed t", "TaskGivenUp t"]


async def test_drain_between_two_sessions(autojump_clock: MockClock) -> None:
    """A node that drains while it waits to join again just ends."""
    async with open_cluster(connect_timeout=0.0) as cluster:
        node = await cluster.start("a")
        cluster.coordinator.outage = True
        cluster.coordinator.expire(node.identity)
        await trio.sleep(60)
        began = trio.current_time()
        await node.consumer.drain()
        assert trio.current_time() == began


async def test_drain_while_joining(autojump_clock: MockClock) -> None:
    """A node that is told to leave before it has joined leaves when it has."""
    async with open_cluster(latency=1.0) as cluster:
        await cluster.submit("t")
        consumer = Consumer(cluster.coordinator, cluster.watched(run_for_ever), name="a", settle=0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.run)
            await trio.sleep(0.5)
            with trio.fail_after(10):
                await consumer.drain()
        assert cluster.starts["t"] == 0


async def test_session_lost_while_draining(autojump_clock: MockClock) -> None:
    """A node that loses its session while it leaves does not come back."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.start("b", capacity=0)
        await cluster.submit_until_running("t")
        node.consumer.start_draining()
        await trio.sleep(1)
        cluster.coordinator.expire(node.identity)
        await cluster.wait_until(node.ended.is_set, within=1.0)


async def test_cancelling_stops_at_once(autojump_clock: MockClock) -> None:
    """A cancelled node stops its tasks, whatever their grace, and closes its session; handlers see why."""
    async with open_cluster() as cluster:
        reasons: list[StopReason | None] = []

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                reasons.append(task.stop_reason)

        node = await cluster.start("a", handler, grace=10.0)
        await cluster.submit_until_running("t")
        began = trio.current_time()
        node.scope.cancel()
        await node.ended.wait()
        assert trio.current_time() == began
        assert reasons == [StopReason.SHUTDOWN]
        assert node.told()[-2:] == ["TaskStopped t shutdown", "SessionEnded"]
        assert cluster.owners() == {}


async def test_told_to_leave_before_it_began(autojump_clock: MockClock) -> None:
    """A signal may come before `run`: it does not join then, and `nursery.start` returns. The next `run` joins."""
    async with open_cluster() as cluster:
        consumer = Consumer(cluster.coordinator, run_for_ever, name="a")
        consumer.start_draining()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        assert consumer.statistics().sessions == 0
        node = await cluster.start_consumer(consumer)
        assert node.told() == ["SessionOpened"]
