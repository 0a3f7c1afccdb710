"""Faults found by an independent review of the protocol, each as the shortest sequence that fails without its fix.

They run on a scripted ZooKeeper, on virtual time.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from metafora_trio import Consumer, Handler, RunningTask, StateName, Task, TaskFinished, TaskState
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import Create, Done, ErrorCode, RequestError
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import ScriptedConnection

COMPLETED = TaskState(StateName.COMPLETED)


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - any condition, and time is virtual
            await trio.sleep(0.0005)


@asynccontextmanager
async def running(
    cluster: ScriptedCluster, handler: Handler, name: str = "a", **options: Any
) -> AsyncGenerator[tuple[Consumer, ScriptedConnection]]:
    """A node that has joined, with its connection."""
    place = len(cluster.connections)
    consumer = Consumer(cluster.coordinator, handler, name=name, rng=random.Random(1), settle=0.0, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        await trio.sleep(1.0)
        yield consumer, cluster.connections[place]
        nursery.cancel_scope.cancel()


def stored(cluster: ScriptedCluster, identity: str) -> bytes:
    """Return the stored record of a session's node."""
    return cluster.tree[f"/m/nodes/{identity}"].data


class TestReading:
    async def test_a_session_that_ends_during_a_read_ends_no_node(self) -> None:
        """The read fails in the same step in which the session is lost; the node joins again."""
        cluster = ScriptedCluster()
        ran: list[str] = []

        async def handler(task: RunningTask) -> None:
            ran.append(task.id)
            await trio.sleep_forever()

        async with running(cluster, handler) as (consumer, connection):
            read = connection.read

            def read_and_expire(paths: Sequence[str], done: Done) -> None:
                read(paths, done)
                if any(path.endswith("/t") for path in paths):
                    trio.lowlevel.spawn_system_task(expire)

            async def expire() -> None:
                await trio.lowlevel.checkpoint()
                connection.expire()

            connection.read = read_and_expire  # type: ignore[method-assign]
            identity = consumer.statistics().node
            assert identity is not None
            await cluster.submit("t")
            # Our claim was not requested on this connection, so its record is not read ahead.
            layout = cluster.layout
            prefix = f"{layout.claims}/{layout.bucket('t')}/t~{identity}~c~"
            cluster.commit([Create(prefix, ephemeral=True, sequential=True)], connection.session_id)
            await until(lambda: consumer.statistics().sessions == 2 and ran == ["t"])

    async def test_one_record_that_may_not_be_read_does_not_hold_up_the_others(self) -> None:
        cluster = ScriptedCluster()
        ran: set[str] = set()

        async def handler(task: RunningTask) -> None:
            ran.add(task.id)
            await trio.sleep_forever()

        async with running(cluster, handler) as (_, connection):
            read = connection.read

            def guarded(paths: Sequence[str], done: Done) -> None:
                if any(path.endswith("/secret") for path in paths):
                    trio.lowlevel.current_trio_token().run_sync_soon(done, RequestError(ErrorCode.NO_AUTH, 0))
                else:
                    read(paths, done)

            connection.read = guarded  # type: ignore[method-assign]
            await cluster.submit("one", "secret", "two")
            await until(lambda: ran >= {"one", "two"})

    async def test_a_machine_that_was_suspended_opens_no_scope(self) -> None:
        """It is suspended while the answer to its claim is on its way; Trio's clock has not moved when it resumes."""
        cluster = ScriptedCluster()
        started: list[float] = []

        async def handler(task: RunningTask) -> None:
            started.append(cluster.suspended)
            await trio.sleep_forever()

        async with running(cluster, handler):
            await cluster.submit("t")
            await until(lambda: any("/claims/" in path and "~c~" in path for path in cluster.tree))
            cluster.suspended += 100.0
            await trio.sleep(0.2)  # less than a heartbeat's period
            assert started == []


class TestAnnouncing:
    async def test_there_and_back_over_a_lost_reply(self) -> None:
        """The freeze is stored but its reply is lost, and the unfreeze is lost. Still the stored record ends right."""
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection):
            before = session.node
            session.announce(replace(before, frozen=True))
            await until(lambda: b'"frozen":true' in stored(cluster, before.identity))
            session.announce(before)
            connection.cut()
            await eventually(session, lambda it: not it.current)
            await eventually(session, lambda it: it.current)
            await until(lambda: b'"frozen":false' in stored(cluster, before.identity))

    async def test_a_later_one_is_not_overtaken(self) -> None:
        """The first is sent again, because a unit in its transaction was refused; the second must not arrive before."""
        cluster = ScriptedCluster()
        async with cluster.session("a") as (session, _), cluster.session("b") as (other, _):
            await cluster.submit("t")
            claim = await own_claim(session, "t")
            before = session.node
            session.hand_over(claim, replace(claim, seq=77, node=other.node.identity))
            session.announce(replace(before, frozen=True))
            await trio.sleep(0.0005)
            session.announce(before)
            await trio.sleep(1)
            assert b'"frozen":false' in stored(cluster, before.identity)
            assert session.outstanding == 0


async def test_a_task_submitted_again_during_a_resync_is_not_taken_for_deleted() -> None:
    """A bid outlives its task. When the task is submitted again it is the bidder's; the removal event is older."""
    cluster = ScriptedCluster()
    log: list[str] = []

    async def handler(task: RunningTask) -> None:
        log.append("start")
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"stop: {task.stop_reason}")

    async with cluster.session("a") as (a, _):
        await cluster.submit("t")
        claim = await own_claim(a, "t")
        async with running(cluster, handler, "b") as (consumer, connection):
            assert consumer._membership is not None
            b = consumer._membership.session
            b.bid("t")
            consumer._membership._planner.wants = lambda task: True  # type: ignore[method-assign]
            await eventually(b, lambda it: it.view.own_claims("t", it.node.identity))
            connection.cut()
            # After the watches and the barrier, during the jitter before the lists.
            await until(lambda: connection.number == 2 and connection.sent[-1] == "heartbeat")
            a.finish(claim, COMPLETED)
            async with cluster.coordinator.open_client() as client:
                await until(lambda: not any(path.endswith("/t") and "/tasks/" in path for path in cluster.tree))
                await client.submit([Task("t")], again=True)
            assert not b.current
            await until(lambda: log)
            a.bid("t")  # the task changes, so the node checks it again
            await trio.sleep(1)
            assert log == ["start"]


async def test_a_submit_again_whose_reply_was_lost_runs_once() -> None:
    """The task has run and ended by the time the client has reconnected. The client cannot know that it was this
    submission that has ended and not another client's, and the error says so."""
    cluster = ScriptedCluster()
    runs: list[str] = []

    async def handler(task: RunningTask) -> None:
        runs.append(task.id)

    async with running(cluster, handler):
        await cluster.submit("t")
        await until(lambda: runs == ["t"])
        await trio.sleep(1)
        async with cluster.coordinator.open_client() as client, trio.open_nursery() as nursery:
            connection = cluster.connections[-1]

            async def lose_the_reply() -> None:
                await until(lambda: any(path.endswith("/t") and "/tasks/" in path for path in cluster.tree))
                connection.silence()
                await trio.sleep(1)
                connection.cut()

            nursery.start_soon(lose_the_reply)
            with pytest.raises(TaskFinished, match=r"'t' has ended \(completed\), in this submission or in another"):
                await client.submit([Task("t")], again=True)
        await trio.sleep(5)
    assert runs == ["t", "t"]


async def test_a_node_that_ends_claims_nothing_more() -> None:
    """When its tasks are cancelled, capacity becomes free, but it must not claim others."""
    cluster = ScriptedCluster()

    async def handler(task: RunningTask) -> None:
        await trio.sleep_forever()

    async with running(cluster, handler, capacity=1) as (consumer, connection):
        await cluster.submit("t")
        await until(lambda: set(consumer.tasks) == {"t"})
        await cluster.submit("u")
        await trio.sleep(5)
        membership = consumer._membership
        assert membership is not None
        membership._planner.refill = lambda: connection.sent.append("refill")  # type: ignore[method-assign]
    assert "refill" not in connection.sent[-20:]
