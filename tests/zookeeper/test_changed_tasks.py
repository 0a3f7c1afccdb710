"""A task whose znode changes is deleted only if a client wrote a tombstone, not if an operator set other properties."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest
import trio
import trio.testing

from metafora_trio import Consumer, RunningTask, StateName, StopReason, Task, TaskExists, TaskState, TaskStatusName
from metafora_trio import open_client as open_user_client
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import (
    Create,
    Delete,
    Done,
    ErrorCode,
    ReadResult,
    Reply,
    RequestError,
    SetData,
)
from metafora_trio_zookeeper._layout import TOMBSTONE
from metafora_trio_zookeeper._session.changed_tasks import ChangedTasks
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of
from tests.support.zookeeper.scripted_cluster import ScriptedCluster

COMPLETED = TaskState(StateName.COMPLETED)
OTHER = b'{"of":"an operator"}'
LARGE = b'{"large":"' + b"x" * 400_000 + b'"}'


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> ScriptedCluster:
    use_virtual_time(request.node)
    return ScriptedCluster()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - any condition, and time is virtual
            await trio.sleep(0.001)


class TestSetByAnOperator:
    async def test_it_deletes_nothing(self, lab: CoordinatorLab) -> None:
        """Neither for the owner, nor for another node, nor for a client; and the owner can still end the task."""
        await lab.submit("t")
        async with lab.session("a") as (a, _), lab.session("b") as (b, _), lab.coordinator.open_client() as client:
            view = await client.open_view()
            claim = await own_claim(a, "t")
            await lab.commit(SetData(lab.layout.task_path("t"), OTHER))
            await trio.sleep(0.1)
            assert a.view.tasks == b.view.tasks == view.tasks == {"t": False}
            stored = (await client.look_up(["t"]))[0].task
            assert stored is not None
            assert (stored.props, stored.version, stored.deleted) == ({"of": "an operator"}, 0, False)
            with pytest.raises(TaskExists, match="is in the cluster already"):
                await client.submit([Task("t")], again=False)
            a.finish(claim, COMPLETED)
            await eventually(b, lambda it: "t" not in it.view.tasks)
            assert TaskState.decode(lab.tree[lab.layout.state_path("t")].data) == COMPLETED

    async def test_a_running_task_keeps_its_properties(self, cluster: ScriptedCluster) -> None:
        """The next run sees the new ones."""
        seen: list[object] = []
        ends = trio.Event()

        async def handler(task: RunningTask) -> None:
            try:
                seen.append(task.props["of"])
                await ends.wait()
            finally:
                seen.append(task.stop_reason)
            seen.append(task.props["of"])

        consumer = Consumer(cluster.coordinator, handler, rng=random.Random(1), settle=0.0)
        async with trio.open_nursery() as nursery, open_user_client(cluster.coordinator) as client:
            await nursery.start(lambda task_status: consumer.run(task_status=task_status))
            await cluster.submit("t")
            await until(lambda: seen)
            cluster.commit([SetData(cluster.layout.task_path("t"), OTHER)])
            await trio.sleep(1)
            await client.stop_task("t")
            await until(lambda: len(seen) == 3)
            ends.set()
            assert (await client.wait(["t"]))["t"].state == TaskStatusName.COMPLETED
            nursery.cancel_scope.cancel()
        assert seen == ["t", StopReason.RELEASED, "an operator", None, "an operator"]

    @pytest.mark.parametrize("times", [1, 2])
    async def test_it_races_with_the_end(self, cluster: ScriptedCluster, times: int) -> None:
        """The end expects the version that was last seen. It is sent again once the task has been read."""
        await cluster.submit("t")
        path = cluster.layout.task_path("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            for _ in range(times):
                cluster.interfere(SetData(path, OTHER))
                session.finish(claim, COMPLETED)
                await eventually(session, lambda it: not it.outstanding)
                assert "t" in session.view.tasks
            before = connection.sent.count("transact")
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: "t" not in it.view.tasks)
            assert connection.sent.count("transact") == before + 1

    async def test_it_is_known_after_a_reconnect(self, cluster: ScriptedCluster) -> None:
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            cluster.refusing = True
            connection.cut()
            cluster.commit([SetData(cluster.layout.task_path("t"), OTHER)])
            cluster.refusing = False
            await eventually(session, lambda it: it.current)
            assert not session.view.deleted("t")
            before = connection.sent.count("transact")
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: "t" not in it.view.tasks)
            assert connection.sent.count("transact") == before + 1

    async def test_a_task_submitted_again_begins_at_version_0(self, cluster: ScriptedCluster) -> None:
        await cluster.submit("t")
        path = cluster.layout.task_path("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            cluster.commit([SetData(path, OTHER)])
            await trio.sleep(0.1)
            connection.numb = True  # as if the server hid these events
            cluster.commit([Delete(path), Create(path, b"{}")])
            await trio.sleep(0.1)
            connection.numb = False
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.outstanding)
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: "t" not in it.view.tasks)

    async def test_a_client_can_still_delete_the_task(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        async with lab.session() as (session, _), lab.coordinator.open_client() as client:
            claim = await own_claim(session, "t")
            await lab.commit(SetData(lab.layout.task_path("t"), OTHER))
            await client.delete(["t"])
            await eventually(session, lambda it: it.view.deleted("t"))
            stored = (await client.look_up(["t"]))[0].task
            assert stored is not None
            assert (stored.version, stored.deleted) == (2, True)
            with pytest.raises(TaskExists, match="is still ending"):
                await client.submit([Task("t")], again=False)
            await client.delete(["t"])
            session.finish(claim, None)
            await eventually(session, lambda it: "t" not in it.view.tasks)

    async def test_properties_that_look_like_a_tombstone_are_properties(self, lab: CoordinatorLab) -> None:
        async with lab.coordinator.open_client() as client, lab.session() as (session, _):
            await client.submit([Task("t", {"deleted": True})], again=False)
            assert lab.tree[lab.layout.task_path("t")].data == TOMBSTONE
            await own_claim(session, "t")
            stored = await session.read("t")
            assert stored is not None
            assert (stored.props, stored.deleted) == ({"deleted": True}, False)


class TestTombstones:
    async def test_one_that_races_with_the_end(self, cluster: ScriptedCluster) -> None:
        """The end fails, and when it is no longer under way, the view shows the tombstone."""
        await cluster.submit("t")
        async with cluster.session() as (session, _):
            claim = await own_claim(session, "t")
            cluster.interfere(SetData(cluster.layout.task_path("t"), TOMBSTONE, 0))
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.is_leaving(claim))
            assert session.view.deleted("t")
            session.finish(claim, None)
            await eventually(session, lambda it: "t" not in it.view.tasks)

    async def test_one_that_may_not_be_read_yet(self, cluster: ScriptedCluster) -> None:
        """It is read as soon as that is permitted. Until then, the end is refused and not tried in a loop."""
        await cluster.submit("t", "u")
        path = cluster.layout.task_path("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            cluster.unreadable.add(path)
            cluster.commit([SetData(path, TOMBSTONE, 0)])
            await trio.sleep(0.1)
            assert not session.view.deleted("t")
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: it.refusals)
            assert session.refusals == {"t": f"no auth at {path}"}
            connection.cut()
            await eventually(session, lambda it: not it.current)
            await eventually(session, lambda it: it.current)
            reads = connection.sent.count("read")
            await trio.sleep(100)
            assert connection.sent.count("read") - reads < 10
            cluster.unreadable.clear()
            await trio.sleep(61)
            assert session.view.deleted("t")

    async def test_the_connection_breaks_during_the_read(self, cluster: ScriptedCluster) -> None:
        await cluster.submit("t")
        path = cluster.layout.task_path("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            cluster.interfere(SetData(path, OTHER))
            session.finish(claim, COMPLETED)
            reads = connection.sent.count("read")
            await until(lambda: connection.sent.count("read") > reads)
            connection.cut()
            await eventually(session, lambda it: not it.current)
            await eventually(session, lambda it: it.current)
            assert not session.is_leaving(claim)
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: "t" not in it.view.tasks)

    async def test_many_deletes_cost_few_reads(self, cluster: ScriptedCluster) -> None:
        tasks = [f"t{number}" for number in range(1000)]
        await cluster.submit(*tasks)
        async with cluster.session() as (session, connection):
            reads = connection.sent.count("read")
            for task in tasks:
                cluster.commit([SetData(cluster.layout.task_path(task), TOMBSTONE, 0)])
            await until(lambda: all(session.view.tasks.values()))
            assert connection.sent.count("read") - reads < 60

    async def test_large_properties_that_an_operator_sets_come_one_at_a_time(self, cluster: ScriptedCluster) -> None:
        """On a slow link, heartbeats would wait behind many. A reconnect reads none of them."""
        tasks = [f"t{number}" for number in range(40)]
        await cluster.submit(*tasks)
        async with cluster.session() as (session, connection):
            claims = [await own_claim(session, task) for task in tasks]
            reads = connection.sent.count("read")
            for task in tasks:
                cluster.commit([SetData(cluster.layout.task_path(task), LARGE)])
            await until(lambda: connection.sent.count("read") >= reads + len(tasks))
            reads = connection.sent.count("read")
            connection.cut()
            await eventually(session, lambda it: not it.current)
            await eventually(session, lambda it: it.current)
            assert connection.sent.count("read") == reads + 1  # the record of the node
            session.finish(claims[0], COMPLETED)
            await eventually(session, lambda it: "t0" not in it.view.tasks)


class TestReads:
    """The reads themselves, whose answers a test gives."""

    async def test_a_late_answer_of_a_broken_connection(self, autojump_clock: trio.testing.MockClock) -> None:
        asked: list[tuple[list[str], Done]] = []
        records: list[tuple[str, ReadResult | None]] = []

        def read(tasks: Sequence[str], done: Done) -> None:
            asked.append((list(tasks), done))

        def on_record(task: str, record: ReadResult | None) -> bool:
            records.append((task, record))
            return True

        changed = ChangedTasks(read, on_record)
        for task in "abc":
            changed.add(task)
        changed.forget("c")
        asked[0][1](RequestError(ErrorCode.CONNECTION_LOSS))
        assert [tasks for tasks, _ in asked] == [["a"]]
        changed.add("d")
        changed.add("e")
        asked[1][1](Reply((None,), 1))
        asked[2][1](RequestError(ErrorCode.OTHER))  # all of it is refused, and tried again after 1 s, 2 s ...
        assert [tasks for tasks, _ in asked] == [["a"], ["d"], ["e"]]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changed.run)
            began = trio.current_time()
            for seconds in (1.0, 3.01):
                count = len(asked)
                await trio.sleep_until(began + seconds - 0.01)
                assert len(asked) == count
                await trio.sleep_until(began + seconds + 0.01)
                assert [tasks for tasks, _ in asked[count:]] == [["e"]]
                asked[-1][1](Reply((RequestError(ErrorCode.NO_AUTH),), 2))
            await trio.sleep(4.1)
            asked[-1][1](Reply((None,), 3))
            await trio.sleep(600)
            nursery.cancel_scope.cancel()
        assert len(asked) == 6
        assert records == [("d", None), ("e", None)]

    async def test_one_that_is_gone_is_not_read(self, autojump_clock: trio.testing.MockClock) -> None:
        """Neither one that waits for its turn, nor one whose read was refused. That would go on for ever."""
        asked: list[tuple[list[str], Done]] = []
        changed = ChangedTasks(lambda tasks, done: asked.append((list(tasks), done)), lambda task, record: True)
        changed.add("a")
        changed.add("b")
        changed.add("c")
        changed.forget("b")
        asked[0][1](RequestError(ErrorCode.NO_AUTH))
        assert [tasks for tasks, _ in asked] == [["a"], ["c"]]
        asked[1][1](Reply((None,), 1))
        changed.forget("a")
        with trio.move_on_after(600):
            await changed.run()
        assert [tasks for tasks, _ in asked] == [["a"], ["c"]]

    async def test_each_task_has_its_own_delay(self, autojump_clock: trio.testing.MockClock) -> None:
        """One that is refused for ever does not delay the others."""
        times: dict[str, list[float]] = {"bad": [], "other": []}

        def read(tasks: Sequence[str], done: Done) -> None:
            for task in tasks:
                times[task].append(trio.current_time())
            done(Reply(tuple(RequestError(ErrorCode.NO_AUTH) for _ in tasks), 1))

        changed = ChangedTasks(read, lambda task, record: True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changed.run)
            changed.add("bad")
            await trio.sleep(300)
            assert 7 <= len(times["bad"]) <= 11  # after 1, 2, 4, ... 60 s
            changed.add("other")
            await trio.sleep(8.5)
            assert len(times["other"]) == 4
            nursery.cancel_scope.cancel()

    async def test_a_record_that_cannot_be_used_is_read_again(self, autojump_clock: trio.testing.MockClock) -> None:
        """The answer to a retry may come before the barrier of a reconnect, when it could show the past."""
        usable, records = False, list[str]()

        def on_record(task: str, record: ReadResult | None) -> bool:
            records.append(task)
            return usable

        changed = ChangedTasks(lambda tasks, done: done(Reply((None,) * len(tasks), 1)), on_record)
        changed.refused("t")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changed.run)
            await trio.sleep(2.5)
            assert records == ["t", "t"]
            usable = True
            await trio.sleep(600)
            assert records == ["t", "t", "t"]
            nursery.cancel_scope.cancel()
