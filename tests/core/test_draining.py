"""Leaving: a drain hands every task over; a cancellation stops every task at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Consumer, RunningTask, StopReason
from tests.support.nodes import Node, open_cluster, run_for_ever, spread


async def drain(node: Node) -> float:
    """Drain a node, and return the seconds that it takes."""
    began = trio.current_time()
    await node.consumer.drain()
    return trio.current_time() - began


async def test_drain_with_heirs(autojump_clock: MockClock) -> None:
    """A draining node runs each task until its heir is ready, so there is no gap. It ends after the last handover."""
    async with open_cluster(latency=0.01) as cluster:
        a, b, c = [await cluster.start(name) for name in "abc"]
        await cluster.submit_until_running(*(f"t{i}" for i in range(9)))
        moving = a.tasks
        gaps: dict[str, float] = dict.fromkeys(moving, 0.0)

        async def watch() -> None:
            while True:
                for task in moving - set(cluster.running):
                    gaps[task] += 0.005
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            assert await drain(a) < 3.0
            await cluster.wait_until(lambda: len(cluster.running) == 9)
            nursery.cancel_scope.cancel()
        assert a.ended.is_set()
        assert spread([b, c]) <= 1
        assert max(gaps.values()) <= 0.05  # the latency of one event and of one read
        told = a.told()
        assert told[-1] == "SessionEnded"
        assert {line for line in told if line.startswith("TaskStopped")} == {f"TaskStopped {t} drained" for t in moving}


async def test_drain_that_begins_while_cut_off(autojump_clock: MockClock) -> None:
    """Nothing is decided before the partition heals. Then the node gives its tasks up and leaves."""
    async with open_cluster(session_timeout=600.0) as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        cluster.coordinator.partition(node.identity)
        node.consumer.start_draining()
        await trio.sleep(10)
        assert "t" in cluster.running
        cluster.coordinator.heal(node.identity)
        await cluster.wait_until(node.ended.is_set)
        assert cluster.running == {}


async def test_drain_alone(autojump_clock: MockClock) -> None:
    """If no other node can take its tasks, a draining node stops them and leaves at once."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        assert await drain(node) < 0.1
        assert node.told()[-4:] == [
            "TaskStopping t drained",
            "TaskStopped t drained",
            "TaskGivenUp t",
            "SessionEnded",
        ]


async def test_two_nodes_drain_at_once(autojump_clock: MockClock) -> None:
    """Nodes that drain at the same time do not wait for each other."""
    async with open_cluster(latency=0.01) as cluster:
        a, b = await cluster.start("a"), await cluster.start("b")
        await cluster.submit_until_running(*(f"t{i}" for i in range(6)))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.consumer.drain)
            nursery.start_soon(b.consumer.drain)
        assert trio.current_time() - began < 1.0


async def test_drain_deadline(autojump_clock: MockClock) -> None:
    """Tasks that no other node takes are stopped after `drain_timeout`."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", drain_timeout=7.0)
        await cluster.submit_until_running("t")
        await cluster.start("b", capacity=0)
        await trio.sleep(1)
        assert await drain(a) == pytest.approx(7.0, abs=0.1)


async def test_drain_of_an_idle_node_and_twice(autojump_clock: MockClock) -> None:
    """A node without tasks leaves at once. Draining a consumer that does not run is only a checkpoint."""
    async with open_cluster(latency=0.1) as cluster:
        node = await cluster.start("a")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.consumer.drain)
            nursery.start_soon(node.consumer.drain)
        assert trio.current_time() - began < 0.5
        with trio.testing.assert_checkpoints():
            await node.consumer.drain()


async def test_drain_outlasts_its_caller(autojump_clock: MockClock) -> None:
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
    """A draining node neither claims nor starts a newly submitted task."""
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


async def test_drain_while_a_claim_is_in_flight(autojump_clock: MockClock) -> None:
    """A claim that is confirmed while the node drains is given up without starting the task, and the node ends."""
    async with open_cluster(latency=0.5) as cluster:
        a = await cluster.start("a", settle=0.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.consumer.statistics().requests_outstanding)
        assert await drain(a) >= 1.0  # it waits for the replies to its requests
        assert cluster.starts["t"] == 0


async def test_drain_while_a_task_is_opened(autojump_clock: MockClock) -> None:
    """If a node begins to drain while it reads a task, it gives the task up without starting it."""
    async with open_cluster(latency=0.5) as cluster:
        a = await cluster.start("a", settle=0.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.consumer.statistics().tasks_open)
        await a.consumer.drain()
        assert cluster.starts["t"] == 0
        assert [line for line in a.told() if "Task" in line] == ["TaskClaimed t", "TaskGivenUp t"]


async def test_drain_between_two_sessions(autojump_clock: MockClock) -> None:
    """If a node is drained while it waits to join again, it ends at once."""
    async with open_cluster(connect_timeout=0.0) as cluster:
        node = await cluster.start("a")
        cluster.coordinator.outage = True
        cluster.coordinator.expire(node.identity)
        await trio.sleep(60)
        assert await drain(node) == 0


async def test_drain_while_joining(autojump_clock: MockClock) -> None:
    """A node that begins to drain while it joins leaves once it has joined, without starting a task."""
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
    """A node that loses its session while it drains does not join again."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.start("b", capacity=0)
        await cluster.submit_until_running("t")
        node.consumer.start_draining()
        await trio.sleep(1)
        cluster.coordinator.expire(node.identity)
        await cluster.wait_until(node.ended.is_set, within=1.0)


async def test_cancelling_stops_at_once(autojump_clock: MockClock) -> None:
    """A cancelled node stops its tasks without grace and closes its session. Handlers see the stop reason."""
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


async def test_drain_before_run(autojump_clock: MockClock) -> None:
    """After `start_draining`, the next `run` does not join, and `nursery.start` returns. The `run` after that joins."""
    async with open_cluster() as cluster:
        consumer = Consumer(cluster.coordinator, run_for_ever, name="a")
        consumer.start_draining()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        assert consumer.statistics().sessions == 0
        node = await cluster.start_consumer(consumer)
        assert node.told() == ["SessionOpened"]
