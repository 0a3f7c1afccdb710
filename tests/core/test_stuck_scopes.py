"""Scopes that do not close when they are cancelled: only their own task waits for them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import NodeInfo, RunningTask
from metafora_trio.events import Event, SessionEnded, TaskOverran, TaskStopped, TaskStuck
from tests.support.nodes import Cluster, Node, open_cluster

T = 12.0
"""A session timeout in seconds. The lease cancels tasks 6 s after the last proof of life, and ends 7.64 s after it."""


async def stubborn(task: RunningTask) -> None:
    """Ignore cancellation for 60 s in a child if the task is named so; any other task stops at once."""
    if task.id == "stubborn":
        task.nursery.start_soon(ignore_cancellation)
    await trio.sleep_forever()


async def ignore_cancellation() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(60)


def only(kind: type[Event], events: Sequence[Event]) -> Event:
    """Return the only event of a kind."""
    (event,) = (event for event in events if isinstance(event, kind))
    return event


async def cut_off(cluster: Cluster, node: Node, seconds: float) -> None:
    cluster.coordinator.partition(node.identity)
    identity = node.identity
    await trio.sleep(seconds)
    cluster.coordinator.heal(identity)


async def test_node_joins_again_beside_a_stuck_scope(autojump_clock: MockClock) -> None:
    """After a short partition, the other tasks run again. The stuck one is reported, and waits for its scope."""
    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a", stubborn)
        await cluster.submit_until_running("stubborn", "other")
        token = a.consumer.tasks["stubborn"].token
        first = a.identity
        await trio.sleep(5)
        a.take_events()
        await cut_off(cluster, a, 7.0)
        await cluster.wait_until(lambda: cluster.starts["other"] == 2, within=5)
        assert a.identity != first
        assert a.tasks == {"other"}
        statistics = a.consumer.statistics()
        assert (statistics.tasks_open, statistics.tasks_stuck) == (1, 1)
        events = a.take_events()
        assert not [event for event in events if isinstance(event, SessionEnded)]
        stuck = only(TaskStuck, events)
        assert isinstance(stuck, TaskStuck)
        assert (stuck.node, stuck.task, stuck.token) == (first, "stubborn", token)
        assert "in ignore_cancellation\n    await trio.sleep(60)" in stuck.stack
        assert cluster.owners()["stubborn"] == ["a"]
        (notice,) = next(node.notices for node in view(cluster) if node.identity == a.identity)
        assert "task stubborn has not stopped since this node lost its session" in notice

        await cluster.wait_until(lambda: cluster.starts["stubborn"] == 2)
        events = a.take_events()
        assert isinstance(only(TaskStopped, events), TaskStopped)
        overran = only(TaskOverran, events)
        assert isinstance(overran, TaskOverran)
        assert overran.seconds > 30
        assert only(SessionEnded, events).node == first
        await cluster.wait_until(lambda: all(not node.notices for node in view(cluster)))
        assert a.consumer.statistics().tasks_stuck == 0


def view(cluster: Cluster) -> list[NodeInfo]:
    """Return the records of the nodes, from the broker's state."""
    return list(cluster.coordinator._store.view.nodes.values())


async def test_stuck_task_does_not_start_beside_itself(autojump_clock: MockClock) -> None:
    """If the session has expired, the task is free, but this node does not take it before its scope has closed."""
    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a", stubborn)
        await cluster.submit_until_running("stubborn", "other")
        began = trio.current_time()
        cluster.coordinator.expire(a.identity)
        await cluster.wait_until(lambda: cluster.starts["other"] == 2, within=5)
        await trio.sleep(40)
        assert cluster.owners() == {"other": ["a"]}
        await cluster.wait_until(lambda: cluster.starts["stubborn"] == 2)
        assert trio.current_time() - began > 59


async def test_other_tasks_do_not_wait_for_a_slow_cleanup(autojump_clock: MockClock) -> None:
    """When a node is cancelled, each claim is given up as its own scope closes."""
    async with open_cluster() as cluster:

        async def slow(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                if task.id in ("slow", "slower"):
                    with task.cleanup():
                        await trio.sleep(2 if task.id == "slow" else 4)

        a = await cluster.start("a", slow)
        tasks = ["slow", "slower", *(f"t{number}" for number in range(20))]
        await cluster.submit_until_running(*tasks)
        b = await cluster.start("b", capacity=0)
        began = trio.current_time()
        a.scope.cancel()
        await cluster.wait_until(lambda: set(cluster.owners()) == {"slow", "slower"}, within=1)
        await cluster.wait_until(lambda: set(cluster.owners()) == {"slower"})
        assert trio.current_time() - began == pytest.approx(2, abs=0.1)
        assert not b.tasks
        await a.ended.wait()
        assert trio.current_time() - began == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("why", ["lost", "cancelled"])
async def test_only_a_node_that_drains_says_so(why: str, autojump_clock: MockClock) -> None:
    """A node that waits for a stuck scope, after losing its session or for an error, attracts no bids for its task."""
    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a", stubborn)
        await cluster.submit_until_running("stubborn", "t1", "t2")
        identity = a.identity
        b = await cluster.start("b")
        await cluster.wait_until(lambda: b.tasks)
        await trio.sleep(5)
        if why == "lost":
            await cut_off(cluster, a, 7.0)
        else:
            a.scope.cancel()
        await trio.sleep(20)
        (node,) = (node for node in view(cluster) if node.identity == identity)
        assert (node.draining, node.frozen) == (False, True)
        assert node.notices == ("it has lost its session or is stopping, and waits for tasks that have not stopped",)
        assert cluster.owners()["stubborn"] == ["a"]
        assert cluster.running.keys() == {"t1", "t2"}
        await cluster.wait_until(lambda: cluster.starts["stubborn"] == 2)
        assert identity not in {node.identity for node in view(cluster)}
        assert a.ended.is_set() == (why == "cancelled")


async def test_scopes_that_close_while_cut_off(autojump_clock: MockClock) -> None:
    """Claims released during a partition are released at the broker after it, while another scope is still open."""
    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a", stubborn)
        await cluster.submit_until_running("stubborn", "t1", "t2")
        b = await cluster.start("b")
        await cluster.wait_until(lambda: b.tasks)
        await trio.sleep(5)
        await cut_off(cluster, a, 10.0)
        await cluster.wait_until(lambda: {"t1", "t2"} <= cluster.running.keys(), within=5)
        assert cluster.owners()["stubborn"] == ["a"]
        assert cluster.starts["stubborn"] == 1


async def test_a_blocked_event_loop_makes_no_scope_stuck(autojump_clock: MockClock) -> None:
    """When the loop goes on after the end of the lease, scopes that then close as usual are not reported as stuck."""
    unblock = trio.Event()

    async def work(task: RunningTask) -> None:
        if task.id == "blocking" and not unblock.is_set():
            await unblock.wait()
            autojump_clock.jump(2 * T)  # no other task runs meanwhile, as during a long computation
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)  # closing takes some steps

    async with open_cluster(session_timeout=T) as cluster:
        a = await cluster.start("a", work)
        await cluster.submit_until_running("blocking", "other")
        a.take_events()
        unblock.set()
        await cluster.wait_until(lambda: cluster.starts["other"] == 2)
        events = a.take_events()
        assert not [event for event in events if isinstance(event, TaskStuck)]
        assert isinstance(only(SessionEnded, events), SessionEnded)
