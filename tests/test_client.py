"""The client: submits, deletes, looks up, waits, watches and sends, on any coordinator."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

import metafora_trio as mt
from metafora_trio.testing import eventually

COMPLETED = mt.TaskState(mt.StateName.COMPLETED)


@asynccontextmanager
async def cluster(*names: str, latency: float = 0.0) -> AsyncGenerator[tuple[mt.Client, mt.Session]]:
    """A client and one node of a new cluster, in which tasks of these ids have been submitted."""
    coordinator = mt.MemoryCoordinator(latency=latency)
    async with mt.open_client(coordinator) as client, coordinator.open_session(mt.NodeInfo("a")) as a:
        await client.submit(mt.Task(name) for name in names)
        await eventually(a, lambda it: len(it.view.tasks) == len(names))
        yield client, a


async def claim(session: mt.Session, task: str) -> mt.Claim:
    session.claim(task)
    await eventually(session, lambda it: it.view.own_claims(task, it.node.identity))
    return session.view.own_claims(task, session.node.identity)[0]


async def finish(session: mt.Session, task: str, state: mt.TaskState | None = COMPLETED) -> None:
    session.finish(await claim(session, task), state)
    await eventually(session, lambda it: task not in it.view.tasks)


# ---- tasks


async def test_submit_one_or_many(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (client, _):
        await client.submit(mt.Task("a"))
        await client.submit(mt.Task("c"), [mt.Task("b"), mt.Task("d")], (mt.Task(f"e{n}") for n in range(2)))
        await client.submit()
        await client.submit([])
        assert [status.id for status in await client.tasks()] == ["a", "b", "c", "d", "e0", "e1"]


async def test_submit_twice(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("old") as (client, a):
        with pytest.raises(mt.TaskExists, match="'old' is in the cluster already"):
            await client.submit(mt.Task("old"))
        with pytest.raises(mt.TaskExists, match="'new' is given twice"):
            await client.submit(mt.Task("new"), [mt.Task("new")])
        await finish(a, "old")
        with pytest.raises(mt.TaskFinished, match=r"'old' has ended \(completed\): submit it with again=True"):
            await client.submit(mt.Task("old"))
        await client.submit(mt.Task("old"), again=True)
        assert [status.id for status in await client.tasks()] == ["old"]


async def test_get_through_the_life_of_a_task(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (client, a):
        await client.submit(mt.Task("t", {"n": 1}))
        assert await client.get("t") == mt.TaskStatus("t", "unclaimed", (), {"n": 1}, mt.TaskState())
        head = await claim(a, "t")
        status = await client.get("t")
        assert status == mt.TaskStatus("t", "running", (head,), {"n": 1}, mt.TaskState())
        assert (status.owner, status.token, status.ended) == (a.node.identity, head.seq, False)
        await client.delete("t")
        status = await client.get("t")
        assert (status.state, status.owner, status.ended) == ("deleting", a.node.identity, False)
        await eventually(a, lambda it: it.view.deleted("t"))
        when = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
        error = mt.TaskError(when, "it broke", "ValueError", "Traceback...")
        await finish(a, "t", mt.TaskState(mt.StateName.FAILED, errors=(error,)))
        status = await client.get("t")
        assert (status.state, status.owner, status.token, status.props) == ("failed", None, None, None)
        assert (status.ended, status.errors) == (True, (error,))
        await client.delete("t")
        with pytest.raises(mt.TaskNotFound, match="no task 't'"):
            await client.get("t")
        assert mt.TaskStatus("t", "deleted").errors == ()


async def test_a_state_that_keeps_a_task_from_running_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """With a state machine a task may sleep while a node owns it."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client:
        await client.submit(mt.Task("t"))
        coordinator._store.states["t"] = mt.TaskState(mt.StateName.SLEEPING)  # as a state store will write it
        assert (await client.get("t")).state == "sleeping"


@pytest.mark.parametrize("id", ["", "a/b", "a~b", ".."])
async def test_ids_are_checked_before_they_are_sent(id: str) -> None:
    async with cluster() as (client, _):
        for call in (client.get(id), client.delete(id), client.wait([id]), client.stop_task(id)):
            with pytest.raises(mt.InvalidTask):
                await call


async def test_delete(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t1", "t2") as (client, _):
        await client.delete()
        with pytest.raises(mt.TaskNotFound, match="no task 'none'"):
            await client.delete("t1", "none", "t2")
        assert [(status.id, status.state) for status in await client.tasks()] == [
            ("t1", "deleting"),
            ("t2", "unclaimed"),
        ]


async def test_tasks(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("b", "c", "a", "d") as (client, a):
        await finish(a, "a")
        head = await claim(a, "c")
        await client.delete("d")
        listed = [
            mt.TaskStatus("b", "unclaimed"),
            mt.TaskStatus("c", "running", (head,)),
            mt.TaskStatus("d", "deleting"),
        ]
        assert await client.tasks() == listed
        assert await client.tasks(finished=True) == [mt.TaskStatus("a", "completed", record=COMPLETED), *listed]


# ---- wait


async def test_wait_for_some(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t1", "t2", "other") as (client, a), trio.open_nursery() as nursery:
        ended: dict[str, mt.TaskStatus] = {}

        async def wait() -> None:
            ended.update(await client.wait(iter(["t1", "t2"]), timeout=100))

        nursery.start_soon(wait)
        await finish(a, "t1")
        await trio.sleep(50)
        assert ended == {}
        await finish(a, "t2", mt.TaskState(mt.StateName.FAILED))
        await trio.testing.wait_all_tasks_blocked()
        assert {id: status.state for id, status in ended.items()} == {"t1": "completed", "t2": "failed"}


async def test_wait_for_all(autojump_clock: trio.testing.MockClock) -> None:
    """All that are in the cluster now, not what comes later."""
    async with cluster("t1", "t2", latency=0.1) as (client, a), trio.open_nursery() as nursery:
        await client.submit(mt.Task("t3"))
        states: list[dict[str, str]] = []

        async def wait() -> None:
            states.append({id: status.state for id, status in (await client.wait()).items()})

        nursery.start_soon(wait)
        await trio.sleep(1)
        await client.submit(mt.Task("later"))
        await client.delete("t2")
        await eventually(a, lambda it: it.view.deleted("t2"))
        await finish(a, "t2", None)
        await finish(a, "t3")
        await finish(a, "t1")
        await trio.sleep(1)
        assert states == [{"t1": "completed", "t2": "deleted", "t3": "completed"}]


async def test_wait_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (client, _):
        assert await client.wait() == {}
        assert await client.wait([]) == {}


async def test_wait_for_what_has_ended_already(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t") as (client, a):
        await finish(a, "t")
        assert [status.state for status in (await client.wait(["t", "t"])).values()] == ["completed"]


async def test_wait_for_what_the_view_does_not_show_yet(autojump_clock: trio.testing.MockClock) -> None:
    """What another client has submitted is read afresh, however far this one's view lags behind."""
    coordinator = mt.MemoryCoordinator(latency=0.1)
    async with mt.open_client(coordinator) as client:
        coordinator._store.submit([mt.Task("t")], again=False)
        with pytest.raises(trio.TooSlowError, match="1 task has not ended within 5 s: t"):
            await client.wait(["t"], timeout=5)


async def test_wait_for_what_is_not_known(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t") as (client, _):
        with pytest.raises(mt.TaskNotFound, match="no task 'none'"):
            await client.wait(["t", "none"])


async def test_wait_too_long(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(*(f"t{n:02}" for n in range(15))) as (client, a):
        await finish(a, "t00")
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError, match=r"14 tasks have not ended within 5 s: t01, .*, t10, \.\.\.$"):
            await client.wait(timeout=5)
        with pytest.raises(trio.TooSlowError, match=r"1 task has not ended within 0 s: t01$"):
            await client.wait(["t01"], timeout=0)
        assert trio.current_time() == start + 5


async def test_a_task_that_is_submitted_again_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """What counts is how things are when one looks, not that the task was gone for a moment."""
    async with cluster("t", latency=0.1) as (client, a), trio.open_nursery() as nursery:
        ended: list[str] = []

        async def wait() -> None:
            ended.extend(await client.wait(["t"]))

        nursery.start_soon(wait)
        await trio.sleep(1)
        a.finish(await claim(a, "t"), COMPLETED)
        await trio.sleep(0.1)  # at the broker, and not in the client's view yet
        await client.submit(mt.Task("t"), again=True)
        await trio.sleep(5)
        assert ended == []
        await finish(a, "t")
        await trio.sleep(1)
        assert ended == ["t"]


async def test_many_wait_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """One connection has one stream of changes; each waiter sees all of it."""
    async with cluster("t1", "t2") as (client, a), trio.open_nursery() as nursery:
        ended: list[str] = []

        async def wait(id: str) -> None:
            ended.extend(await client.wait([id]))

        for id in ("t1", "t2", "t1"):
            nursery.start_soon(wait, id)
        await trio.sleep(1)
        await finish(a, "t2")
        await trio.sleep(1)
        await finish(a, "t1")
        await trio.sleep(1)
        assert ended == ["t2", "t1", "t1"]


# ---- watch


async def test_watch(autojump_clock: trio.testing.MockClock) -> None:
    """It begins with all there is; then each change is told as things are when it is taken."""
    async with cluster("t1", "t2") as (client, a), client.watch() as changes:
        node = mt.NodeStatus(a.node, 0, 0)
        assert [await anext(changes) for _ in range(3)] == [
            mt.NodesChanged([node]),
            mt.TaskChanged("t1", mt.TaskStatus("t1", "unclaimed")),
            mt.TaskChanged("t2", mt.TaskStatus("t2", "unclaimed")),
        ]
        await trio.sleep(1)
        head = await claim(a, "t1")
        assert await anext(changes) == mt.TaskChanged("t1", mt.TaskStatus("t1", "running", (head,)))
        a.announce(replace(a.node, frozen=True))
        assert await anext(changes) == mt.NodesChanged([mt.NodeStatus(a.node, 1, 0)])
        await finish(a, "t2")
        assert await anext(changes) == mt.TaskChanged("t2", None)
        with trio.move_on_after(10) as idle:
            await anext(changes)
        assert idle.cancelled_caught


async def test_watch_coalesces(autojump_clock: trio.testing.MockClock) -> None:
    """Who is slow sees the last state of each task once, not every state between."""
    async with cluster("t1") as (client, a), client.watch() as changes:
        assert [type(await anext(changes)) for _ in range(2)] == [mt.NodesChanged, mt.TaskChanged]
        for _ in range(3):
            a.release(await claim(a, "t1"))
            await eventually(a, lambda it: not it.view.head("t1"))
        head = await claim(a, "t1")
        await trio.sleep(1)
        assert await anext(changes) == mt.TaskChanged("t1", mt.TaskStatus("t1", "running", (head,)))
        a.release(head)
        await eventually(a, lambda it: not it.view.head("t1"))
        a.announce(replace(a.node, full=True))
        a.announce(replace(a.node, full=False))
        await trio.sleep(1)
        assert await anext(changes) == mt.TaskChanged("t1", mt.TaskStatus("t1", "unclaimed"))
        with trio.move_on_after(10) as idle:
            await anext(changes)
        assert idle.cancelled_caught


async def test_watch_is_an_async_iterator(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t1") as (client, _), client.watch() as changes:
        async for change in changes:
            if isinstance(change, mt.TaskChanged):
                assert change.id == "t1"
                break


async def test_after_a_resync_what_has_gone_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """While a client was cut off it heard nothing: it compares the new view with what it has told."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client:
        await client.submit(mt.Task("t1"), mt.Task("t2"))
        async with client.watch() as changes:
            assert [type(await anext(changes)) for _ in range(3)] == [mt.NodesChanged, mt.TaskChanged, mt.TaskChanged]
            with trio.move_on_after(1) as idle:
                await anext(changes)
            assert idle.cancelled_caught  # nothing is left of what was told so far
            (feed,) = coordinator._store._feeds
            feed.inbox.put(mt.ClusterView(tasks={"t2": False, "t3": False}))
            assert [await anext(changes) for _ in range(2)] == [
                mt.TaskChanged("t1", None),
                mt.TaskChanged("t3", mt.TaskStatus("t3", "unclaimed")),
            ]


async def test_a_cancelled_watch_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t1") as (client, _), client.watch() as changes:
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(changes)
        seen = []
        with trio.move_on_after(5):
            while True:
                with trio.move_on_after(0):
                    seen.append(type(await anext(changes)))
                await trio.sleep(1)
                seen.append(type(await anext(changes)))
        assert seen == [mt.NodesChanged, mt.TaskChanged]


# ---- nodes


async def test_nodes(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client, coordinator.open_session(mt.NodeInfo("b")) as b:
        async with coordinator.open_session(mt.NodeInfo("a", capacity=5)) as a:
            await client.submit(mt.Task("t1"), mt.Task("t2"))
            await claim(a, "t1")
            await claim(a, "t2")
            b.bid("t1")
            await eventually(b, lambda it: len(it.view.queue("t1")) == 2)
            await trio.testing.wait_all_tasks_blocked()
            assert await client.nodes() == [mt.NodeStatus(a.node, 2, 0), mt.NodeStatus(b.node, 0, 1)]


async def test_send(autojump_clock: trio.testing.MockClock) -> None:
    """A name means every live node of that name, an identity only that one."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client:
        async with coordinator.open_session(mt.NodeInfo("a")) as a1, coordinator.open_session(mt.NodeInfo("a")) as a2:
            await trio.testing.wait_all_tasks_blocked()
            await client.freeze("a")
            await client.drain(a2.node.identity)
            await trio.testing.wait_all_tasks_blocked()
            assert [order.command for order in a1.orders()] == [mt.Command("freeze")]
            assert [order.command for order in a2.orders()] == [mt.Command("freeze"), mt.Command("drain")]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(mt.NodeNotFound, match="no live node 'a'"):
            await client.balance("a")


async def test_every_command(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t") as (client, a):
        with pytest.raises(mt.TaskNotFound, match="no node owns task 't'"):
            await client.stop_task("t")
        await claim(a, "t")
        await client.freeze("a")
        await client.unfreeze("a")
        await client.balance("a")
        await client.drain("a")
        await client.stop_task("t")
        await client.send("a", mt.Command("dance"))
        await eventually(a, lambda it: len(it.orders()) == 6)
        commands = [order.command for order in a.orders()]
    assert commands == [
        mt.Command(mt.CommandName.FREEZE),
        mt.Command(mt.CommandName.UNFREEZE),
        mt.Command(mt.CommandName.BALANCE),
        mt.Command(mt.CommandName.DRAIN),
        mt.Command(mt.CommandName.STOP_TASK, "t"),
        mt.Command("dance"),
    ]


# ---- opening and closing


async def test_errors_of_the_body_leave_unwrapped(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with mt.open_client(mt.MemoryCoordinator()) as client, client.watch():
            raise KeyError("mine")


async def test_every_method_is_a_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t") as (client, a):
        for method in (client.tasks, client.nodes, client.submit, client.delete, client.wait):
            with trio.testing.assert_checkpoints():
                with trio.move_on_after(1):
                    await method()
        with trio.testing.assert_checkpoints():
            await client.get("t")
        with trio.testing.assert_checkpoints():
            await client.freeze(a.node.name)
