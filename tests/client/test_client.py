"""The client: submits, deletes, looks up, lists and sends, on any coordinator."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio
import trio.testing

import metafora_trio as mt
from metafora_trio import contract
from metafora_trio.testing.conformance import eventually
from metafora_trio.testing.conformance._subject import get_claim
from tests.support.clients import COMPLETED, cluster, finish


@contextmanager
def a_broken_record(client: mt.Client, id: str, *, task_problem: str, state_problem: str) -> Iterator[None]:
    """Make the broker unable to read the records of one task."""
    broker = client._broker
    right = broker.look_up

    async def look_up(tasks: Sequence[str]) -> Sequence[contract.TaskSnapshot]:
        return [
            contract.TaskSnapshot(
                snapshot.task and contract.StoredTask({}, snapshot.task.version),
                None,
                snapshot.queue,
                task_problem if snapshot.task else "",
                state_problem,
            )
            if task == id
            else snapshot
            for task, snapshot in zip(tasks, await right(tasks), strict=True)
        ]

    vars(broker)["look_up"] = look_up
    yield
    del vars(broker)["look_up"]


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
        assert await client.get("t") == mt.TaskStatus("t", mt.TaskStatusName.UNCLAIMED, (), {"n": 1}, mt.TaskState())
        head = await get_claim(a, "t")
        status = await client.get("t")
        assert status == mt.TaskStatus("t", mt.TaskStatusName.RUNNING, (head,), {"n": 1}, mt.TaskState())
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
        assert mt.TaskStatus("t", mt.TaskStatusName.DELETED).errors == ()


@pytest.mark.parametrize("id", ["", "a/b", "a~b", ".."])
async def test_ids_are_checked_before_they_are_sent(id: str) -> None:
    async with cluster() as (client, _):
        for call in (client.get(id), client.delete(id), client.wait([id]), client.stop_task(id)):
            with pytest.raises(mt.InvalidTask):
                await call


async def test_delete(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t1", "t2") as (client, _):
        await client.delete()
        with pytest.raises(mt.TaskNotFound, match=r"no task 'none'$"):
            await client.delete("t1", "none", "t1", "none")
        assert [(status.id, status.state) for status in await client.tasks()] == [
            ("t1", "deleting"),
            ("t2", "unclaimed"),
        ]


async def test_delete_names_what_it_does_not_find_and_deletes_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster("t1", "t2") as (client, _):
        unknown = [f"u{n:02}" for n in range(12)]
        named = ", ".join(map(repr, unknown[:10]))
        with pytest.raises(mt.TaskNotFound, match=f"^no tasks {named} and 2 more$"):
            await client.delete(*unknown, "t1", "t2")
        assert {status.state for status in await client.tasks()} == {"deleting"}


async def test_tasks(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("b", "c", "a", "d") as (client, a):
        await finish(a, "a")
        head = await get_claim(a, "c")
        await client.delete("d")
        listed = [
            mt.TaskStatus("b", mt.TaskStatusName.UNCLAIMED),
            mt.TaskStatus("c", mt.TaskStatusName.RUNNING, (head,)),
            mt.TaskStatus("d", mt.TaskStatusName.DELETING),
        ]
        assert await client.tasks() == listed
        assert await client.tasks(finished=True) == [
            mt.TaskStatus("a", mt.TaskStatusName.COMPLETED, stored_state=COMPLETED),
            *listed,
        ]


async def test_a_record_that_cannot_be_read_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    """It spoils neither a list nor a wait. What is known of its task is reported with the reason."""
    async with cluster("a", "b", "c") as (client, a), trio.open_nursery() as nursery:
        ended: dict[str, mt.TaskStatus] = {}

        async def wait() -> None:
            ended.update(await client.wait(["a", "b"]))

        nursery.start_soon(wait)
        with a_broken_record(client, "a", task_problem="bad props", state_problem="bad state"):
            await finish(a, "b")
            await get_claim(a, "a")
            status = await client.get("a")
            assert (status.state, status.props, status.stored_state) == ("running", None, None)
            assert status.problem == "bad props; bad state"
            await finish(a, "a")
            await trio.sleep(1)
            unreadable = mt.TaskStatus("a", mt.TaskStatusName.UNREADABLE, problem="bad state")
            assert ended == {
                "a": unreadable,
                "b": mt.TaskStatus("b", mt.TaskStatusName.COMPLETED, stored_state=COMPLETED),
            }
            assert unreadable.ended
            assert [status.state for status in await client.tasks(finished=True)] == [
                "unreadable",
                "completed",
                "unclaimed",
            ]


async def test_a_task_deleted_between_two_reads_is_not_listed(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("a", "b") as (client, a), trio.open_nursery() as nursery:
        await finish(a, "a")
        await finish(a, "b")
        broker = client._broker
        right = broker.look_up

        async def delete_first(tasks: Sequence[str]) -> Sequence[contract.TaskSnapshot]:
            await broker.delete(["a"])
            return await right(tasks)

        vars(broker)["look_up"] = delete_first
        assert [status.id for status in await client.tasks(finished=True)] == ["b"]
        nursery.cancel_scope.cancel()


# ---- nodes


async def test_nodes(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client, coordinator.open_session(mt.NodeInfo("b")) as b:
        async with coordinator.open_session(mt.NodeInfo("a", capacity=5)) as a:
            await client.submit(mt.Task("t1"), mt.Task("t2"))
            await get_claim(a, "t1")
            await get_claim(a, "t2")
            b.bid("t1")
            await eventually(b, lambda it: len(it.view.queue("t1")) == 2)
            await trio.testing.wait_all_tasks_blocked()
            assert await client.nodes() == [mt.NodeStatus(a.node, 2, 0), mt.NodeStatus(b.node, 0, 1)]


async def test_send(autojump_clock: trio.testing.MockClock) -> None:
    """A name means every live node with that name; an identity means one node."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client:
        async with coordinator.open_session(mt.NodeInfo("a")) as a1, coordinator.open_session(mt.NodeInfo("a")) as a2:
            await trio.testing.wait_all_tasks_blocked()
            await client.freeze("a")
            await client.drain(a2.node.identity)
            await trio.testing.wait_all_tasks_blocked()
            assert [queued.command for queued in a1.queued_commands()] == [mt.Command("freeze")]
            assert [queued.command for queued in a2.queued_commands()] == [mt.Command("freeze"), mt.Command("drain")]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(mt.NodeNotFound, match="no live node 'a'"):
            await client.balance("a")


async def test_send_to_nodes_that_are_just_leaving(autojump_clock: trio.testing.MockClock) -> None:
    """The view lags. If several nodes share a name, the live ones get the command; if none is live, it is refused."""
    coordinator = mt.MemoryCoordinator(latency=1.0)
    async with mt.open_client(coordinator) as client, coordinator.open_session(mt.NodeInfo("a")) as stays:
        async with coordinator.open_session(mt.NodeInfo("a")):
            await trio.sleep(3)
        await client.freeze("a")
        await eventually(
            stays, lambda it: [queued.command for queued in it.queued_commands()] == [mt.Command("freeze")]
        )
        async with coordinator.open_session(mt.NodeInfo("b")):
            await trio.sleep(3)
        with pytest.raises(mt.NodeNotFound, match=r"no live node 'b': the session 'b\.\d+' is over"):
            await client.drain("b")


async def test_stop_task_of_a_node_that_is_just_leaving(autojump_clock: trio.testing.MockClock) -> None:
    """Its claim goes with it, so the task has no owner even though the command was not delivered."""
    coordinator = mt.MemoryCoordinator(latency=1.0)
    async with mt.open_client(coordinator) as client, trio.open_nursery() as nursery:
        await client.submit(mt.Task("t"))
        async with coordinator.open_session(mt.NodeInfo("a")) as a:
            await get_claim(a, "t")
            began = trio.Event()

            async def stop() -> None:
                began.set()
                with pytest.raises(mt.TaskNotFound, match=r"no node owns task 't': a\.\d+ has just gone"):
                    await client.stop_task("t")

            nursery.start_soon(stop)
            await began.wait()
            await trio.sleep(2.5)  # the owner has been read, and the command is in flight


async def test_every_command(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster("t") as (client, a):
        with pytest.raises(mt.TaskNotFound, match="no node owns task 't'"):
            await client.stop_task("t")
        await get_claim(a, "t")
        await client.freeze("a")
        await client.unfreeze("a")
        await client.balance("a")
        await client.drain("a")
        await client.stop_task("t")
        await client.send("a", mt.Command("dance"))
        await eventually(a, lambda it: len(it.queued_commands()) == 6)
        commands = [queued.command for queued in a.queued_commands()]
    assert commands == [
        mt.Command(mt.CommandName.FREEZE),
        mt.Command(mt.CommandName.UNFREEZE),
        mt.Command(mt.CommandName.BALANCE),
        mt.Command(mt.CommandName.DRAIN),
        mt.Command(mt.CommandName.STOP_TASK, "t"),
        mt.Command("dance"),
    ]


# ---- opening and closing


async def test_errors_of_the_body_are_raised_unwrapped(autojump_clock: trio.testing.MockClock) -> None:
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


async def test_state_record_without_a_task_is_stray(autojump_clock: trio.testing.MockClock) -> None:
    """The task was removed by hand. One such record spoils no list, and it can be deleted."""
    coordinator = mt.MemoryCoordinator()
    async with mt.open_client(coordinator) as client:
        coordinator._store.states["t"] = mt.TaskState()
        status = await client.get("t")
        assert (status.state, status.ended) == (mt.TaskStatusName.STRAY, False)
        assert await client.tasks(finished=True) == [status]
        with pytest.raises(trio.TooSlowError, match="1 task has not ended"):
            await client.wait(["t"], timeout=1)
        await client.delete("t")
        with pytest.raises(mt.TaskNotFound):
            await client.get("t")
