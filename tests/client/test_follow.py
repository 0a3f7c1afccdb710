"""The client's `wait`, for the end of tasks, and `watch`, for changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

import metafora_trio as mt
from metafora_trio import contract
from metafora_trio._client import watch
from metafora_trio._memory.client import MemoryClient
from metafora_trio.contract import TaskRemoved
from metafora_trio.testing.conformance import eventually
from metafora_trio.testing.conformance._subject import get_claim
from tests.support.clients import COMPLETED, cluster, finish

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
    """Wait for all tasks now in the cluster, not for tasks submitted later."""
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


async def test_wait_for_a_task_that_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t") as (client, a):
        await finish(a, "t")
        assert [status.state for status in (await client.wait(["t", "t"])).values()] == ["completed"]


async def test_wait_for_a_task_that_is_not_in_the_view_yet(autojump_clock: trio.testing.MockClock) -> None:
    """A task that another client submitted is read from the broker, however far this client's view lags."""
    coordinator = mt.MemoryCoordinator(latency=0.1)
    async with mt.open_client(coordinator) as client:
        assert await client.tasks() == []
        coordinator._store.submit([mt.Task("t")], again=False)
        with pytest.raises(trio.TooSlowError, match="1 task has not ended within 5 s: t"):
            await client.wait(["t"], timeout=5)


async def test_wait_for_an_unknown_task(autojump_clock: trio.testing.MockClock) -> None:
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


async def test_a_timed_out_wait_keeps_the_ends_it_has_seen(autojump_clock: trio.testing.MockClock) -> None:
    """Tasks that had ended before are included. Entries that were in the dict before are overwritten."""
    async with cluster("t1", "t2", "t3") as (client, a):
        await finish(a, "t1")
        ended = {"t3": await client.get("t3")}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish, a, "t2")
            with pytest.raises(trio.TooSlowError, match="1 task has not ended within 5 s: t3"):
                await client.wait(["t1", "t2", "t3"], timeout=5, ended=ended)
        assert {id: status.state for id, status in ended.items()} == {
            "t1": "completed",
            "t2": "completed",
            "t3": "unclaimed",
        }


async def test_a_task_that_is_submitted_again_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Only the state at the time of reading counts, not that the task was gone for a moment."""
    async with cluster("t", latency=0.1) as (client, a), trio.open_nursery() as nursery:
        ended: list[str] = []

        async def wait() -> None:
            ended.extend(await client.wait(["t"]))

        nursery.start_soon(wait)
        await trio.sleep(1)
        a.finish(await get_claim(a, "t"), COMPLETED)
        await trio.sleep(0.1)  # the broker has it, but not the client's view
        await client.submit(mt.Task("t"), again=True)
        await trio.sleep(5)
        assert ended == []
        await finish(a, "t")
        await trio.sleep(1)
        assert ended == ["t"]


async def test_many_wait_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """A connection has one stream of changes, and each waiter sees all of them."""
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
    """It begins with everything that exists. Then each change shows the state at the time when it is taken."""
    async with cluster("t1", "t2") as (client, a), client.watch() as changes:
        node = mt.NodeStatus(a.node, 0, 0)
        assert [await anext(changes) for _ in range(3)] == [
            mt.NodesChanged([node]),
            mt.TaskChanged("t1", mt.TaskStatus("t1", mt.TaskStatusName.UNCLAIMED)),
            mt.TaskChanged("t2", mt.TaskStatus("t2", mt.TaskStatusName.UNCLAIMED)),
        ]
        await trio.sleep(1)
        head = await get_claim(a, "t1")
        assert await anext(changes) == mt.TaskChanged("t1", mt.TaskStatus("t1", mt.TaskStatusName.RUNNING, (head,)))
        a.announce(replace(a.node, frozen=True))
        assert await anext(changes) == mt.NodesChanged([mt.NodeStatus(a.node, 1, 0)])
        await finish(a, "t2")
        assert await anext(changes) == mt.TaskChanged("t2", None)
        with trio.move_on_after(10) as idle:
            await anext(changes)
        assert idle.cancelled_caught


async def test_watch_coalesces(autojump_clock: trio.testing.MockClock) -> None:
    """A slow watcher sees the last state of each task once, not every state between."""
    async with cluster("t1") as (client, a), client.watch() as changes:
        assert [type(await anext(changes)) for _ in range(2)] == [mt.NodesChanged, mt.TaskChanged]
        for _ in range(3):
            a.release(await get_claim(a, "t1"))
            await eventually(a, lambda it: not it.view.head("t1"))
        head = await get_claim(a, "t1")
        await trio.sleep(1)
        assert await anext(changes) == mt.TaskChanged("t1", mt.TaskStatus("t1", mt.TaskStatusName.RUNNING, (head,)))
        a.release(head)
        await eventually(a, lambda it: not it.view.head("t1"))
        a.announce(replace(a.node, full=True))
        a.announce(replace(a.node, full=False))
        await trio.sleep(1)
        assert await anext(changes) == mt.TaskChanged("t1", mt.TaskStatus("t1", mt.TaskStatusName.UNCLAIMED))
        with trio.move_on_after(10) as idle:
            await anext(changes)
        assert idle.cancelled_caught


async def test_watch_is_an_async_iterator(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t1") as (client, _), client.watch() as changes:
        async for change in changes:
            if isinstance(change, mt.TaskChanged):
                assert change.id == "t1"
                break


async def test_a_resync_reports_removals(autojump_clock: trio.testing.MockClock) -> None:
    """A client that was cut off got no events, so it compares the new view with what it last reported."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client:
        await client.submit(mt.Task("t1"), mt.Task("t2"))
        async with client.watch() as changes:
            assert [type(await anext(changes)) for _ in range(3)] == [mt.NodesChanged, mt.TaskChanged, mt.TaskChanged]
            with trio.move_on_after(1) as idle:
                await anext(changes)
            assert idle.cancelled_caught  # everything so far has been taken
            (feed,) = coordinator._store._feeds
            feed.inbox.put(contract.ClusterView(tasks={"t2": False, "t3": False}))
            assert [await anext(changes) for _ in range(2)] == [
                mt.TaskChanged("t1", None),
                mt.TaskChanged("t3", mt.TaskStatus("t3", mt.TaskStatusName.UNCLAIMED)),
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


async def test_changes_do_not_pile_up_while_nobody_listens(autojump_clock: trio.testing.MockClock) -> None:
    """Neither at the broker's end of the client, which has a view or not, nor behind a watch that nobody reads."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as never_looks, mt.open_client(coordinator) as looks:
        assert await looks.tasks() == []
        for _ in range(30):
            coordinator._store.submit([mt.Task(f"t{n}") for n in range(100)], again=True)
            coordinator._store._commit(*(TaskRemoved(f"t{n}") for n in range(100)))
            coordinator._store.tasks.clear()
            await trio.testing.wait_all_tasks_blocked()
        for client in (never_looks, looks):
            broker = client._broker
            assert isinstance(broker, MemoryClient)
            assert not broker._changes
            assert broker.view.tasks == {}


async def test_a_watch_that_nobody_reads_takes_little_memory(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a limit it remembers only that everything has changed, and later reports what is left."""
    monkeypatch.setattr(watch, "_MAX_TASKS", 50)
    async with cluster("stays") as (client, _), client.watch() as changes:
        assert [type(await anext(changes)) for _ in range(2)] == [mt.NodesChanged, mt.TaskChanged]
        listener = changes._listener
        for n in range(51):
            assert not listener._changes.everything
            assert len(listener._changes.tasks) == n
            await client.submit(mt.Task(f"t{n:02}"))
            await trio.testing.wait_all_tasks_blocked()
        assert (listener._changes.everything, listener._changes.tasks) == (True, {})
        seen = [await anext(changes) for _ in range(51)]
        assert [change.id for change in seen if isinstance(change, mt.TaskChanged)] == [f"t{n:02}" for n in range(51)]
        with trio.move_on_after(10) as idle:
            await anext(changes)
        assert idle.cancelled_caught
