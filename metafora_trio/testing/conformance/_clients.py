"""The conformance suite for clients: submitting, deleting, reading, and commands to nodes."""

from __future__ import annotations

import datetime

import trio

from metafora_trio import (
    Command,
    NodeNotFound,
    StateName,
    Task,
    TaskError,
    TaskExists,
    TaskFinished,
    TaskState,
)
from metafora_trio.contract import TaskSnapshot

from ._subject import PATIENCE, Subject, eventually, get_claim, look_up, members, raises, submit, until_reported

__all__ = ["ClientConformance"]


class ClientConformance:
    """Requests of a client, and their effect on sessions."""

    async def test_a_submitted_task_can_be_read(self, subject: Subject) -> None:
        props = {"text": "grüße ☃ \N{GRINNING FACE}", "list": [1, 2.5, None, True], "nested": {"a": {}}}
        odd = "A-z0.9_:@=+-" + "x" * 116
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await client.submit([Task("t", props), Task(odd)], again=False)
            await eventually(a, lambda it: set(it.view.tasks) == {"t", odd})
            stored = await a.read("t")
            assert stored is not None
            assert (stored.props, stored.version, stored.deleted) == (props, 0, False)
            snapshot = await look_up(client, "t")
            assert (snapshot.task, snapshot.state, list(snapshot.queue)) == (stored, TaskState(), [])
            claim = await get_claim(a, odd)
            assert list((await look_up(client, odd)).queue) == [claim]

    async def test_an_unknown_task_reads_as_none(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            assert await a.read("t") is None
            snapshot = await look_up(client, "t")
            assert (snapshot.task, snapshot.state, list(snapshot.queue)) == (None, None, [])
            assert list(await client.finished()) == []

    async def test_a_task_is_submitted_once(self, subject: Subject) -> None:
        async with subject.coordinator.open_client() as client:
            await client.submit([Task("old")], again=False)
            for again in (False, True):
                with raises(TaskExists, "old"):
                    await client.submit([Task("new"), Task("old")], again=again)
            assert (await look_up(client, "new")).task is None  # all ids are checked before any task is written

    async def test_a_task_that_is_still_ending_cannot_be_submitted(self, subject: Subject) -> None:
        async with subject.coordinator.open_client() as client:
            await client.submit([Task("t")], again=False)
            await client.delete(["t"])
            await client.delete(["t"])  # deleting twice does no harm
            with raises(TaskExists, "ending"):
                await client.submit([Task("t")], again=True)

    async def test_resubmitting_an_ended_task_needs_again(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await submit(subject, [a], "t")
            a.finish(await get_claim(a, "t"), TaskState(StateName.COMPLETED))
            await eventually(a, lambda it: "t" not in it.view.tasks)
            with raises(TaskFinished, "'t'"):
                await client.submit([Task("t"), Task("new")], again=False)
            assert (await look_up(client, "new")).task is None
            await client.submit([Task("t", {"round": 2})], again=True)
            snapshot = await look_up(client, "t")
            assert snapshot.task is not None
            assert (snapshot.task.props, snapshot.state) == ({"round": 2}, TaskState())

    async def test_the_final_state_can_be_read_until_it_is_deleted(self, subject: Subject) -> None:
        when = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
        error = TaskError(when, "it broke", "ValueError", "Traceback: ☃\n")
        failed = TaskState(StateName.FAILED, (error,), {"snow": "☃", "deep": [[1]]}, "a.1", 2**40, when, when)
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await submit(subject, [a], "t")
            a.finish(await get_claim(a, "t"), failed)
            await eventually(a, lambda it: "t" not in it.view.tasks)
            assert (await look_up(client, "t")).state == failed
            await client.delete(["t"])
            assert await look_up(client, "t") == TaskSnapshot(None, None)
            assert list(await client.finished()) == []

    async def test_an_unknown_task_cannot_be_deleted(self, subject: Subject) -> None:
        async with subject.coordinator.open_client() as client:
            await client.submit([Task("other")], again=False)
            assert list(await client.delete(["t"])) == ["t"]

    async def test_unknown_tasks_do_not_keep_others_from_being_deleted(self, subject: Subject) -> None:
        """Among many are some that run, some that have ended, and one deleted before."""
        ids = [f"t{n:03}" for n in range(300)]
        ended, unknown = ids[::50], [f"u{n}" for n in range(5)]
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await submit(subject, [a], *ids)
            for id in ended:
                a.finish(await get_claim(a, id), TaskState(StateName.COMPLETED))
            await eventually(a, lambda it: len(it.view.tasks) == len(ids) - len(ended))
            assert list(await client.delete(["t001"])) == []
            mixed = [*unknown[:2], *ids, *unknown[2:]]
            assert list(await client.delete(mixed)) == unknown
            left = set(ids) - set(ended)
            await eventually(a, lambda it: it.view.tasks == dict.fromkeys(left, True))
            assert list(await client.finished()) == []
            assert list(await client.delete([])) == []

    async def test_many_tasks_at_once(self, subject: Subject) -> None:
        ids = [f"t{n:04}" for n in range(600)]
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await client.submit([Task(id, {"padding": "x" * 1000}) for id in ids], again=False)
            await eventually(a, lambda it: len(it.view.tasks) == len(ids))
            for id in ids:
                a.claim(id)
            await eventually(a, lambda it: len(it.view.owned_by(it.node.identity)) == len(ids) and it.outstanding == 0)
            for id in ids:
                head = a.view.head(id)
                assert head is not None
                a.finish(head, TaskState(StateName.COMPLETED))
            await eventually(a, lambda it: not it.view.tasks and not list(it.view.claims()) and it.outstanding == 0)
            assert sorted(await client.finished()) == ids
            snapshots = await client.look_up([*reversed(ids), "none", ids[0]])
            ended = TaskSnapshot(None, TaskState(StateName.COMPLETED))
            assert list(snapshots) == [*[ended] * len(ids), TaskSnapshot(None, None), ended]
            assert list(await client.look_up([])) == []

    async def test_queues_are_the_same_with_and_without_a_view(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b), subject.coordinator.open_client() as client:
            await submit(subject, [a, b], "t1", "t10", "t2")
            owner = await get_claim(a, "t1", seen_by=[b])
            bid = await get_claim(b, "t1", bid=True)
            other = await get_claim(b, "t10")
            for _ in range(2):
                queues = [list(snapshot.queue) for snapshot in await client.look_up(["t1", "t10", "t2"])]
                assert queues == [[owner, bid], [other], []]
                await client.open_view()

    async def test_a_client_has_a_live_view(self, subject: Subject) -> None:
        async with subject.coordinator.open_client() as client, members(subject, "a") as (a,):
            await submit(subject, [a], "t")
            view = await client.open_view()
            claim = await get_claim(a, "t")
            await eventually(client, lambda it: view.head("t") == claim and a.node.identity in view.nodes)
            a.release(claim)
            await eventually(client, lambda it: "t" in view.unclaimed)

    async def test_a_submitted_task_is_in_the_clients_own_view(self, subject: Subject) -> None:
        """Read your writes. Otherwise a client that submits and then waits for all tasks would not wait."""
        async with subject.coordinator.open_client() as client:
            await client.submit([Task("first")], again=False)
            assert "first" in (await client.open_view()).tasks
            await client.submit([Task("t")], again=False)
            assert "t" in (await client.open_view()).tasks

    async def test_a_cancelled_wait_loses_nothing(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit, subject, (), "t")
                with trio.fail_after(PATIENCE):
                    while "t" not in a.view.tasks:
                        with trio.move_on_after(0.001):
                            await a.wait_changed()
                        await trio.sleep(0.001)  # untaken changes return at once: let virtual time advance
            changes = a.take_changes()
            assert changes.everything or "t" in changes.tasks

    # ---- commands to nodes

    async def test_a_command_reaches_its_addressee_alone(self, subject: Subject) -> None:
        async with members(subject, "a", "a") as (first, second), subject.coordinator.open_client() as client:
            commands = [Command("freeze"), Command("stop_task", "t"), Command("unheard_of")]
            for command in commands:
                await client.send(first.node.identity, command)
            await eventually(first, lambda it: len(it.queued_commands()) == 3)
            assert [queued.command for queued in first.queued_commands()] == commands
            assert {queued.node for queued in first.queued_commands()} == {first.node.identity}
            assert list(second.queued_commands()) == []
            first.discard(first.queued_commands()[0])
            await eventually(first, lambda it: [queued.command for queued in it.queued_commands()] == commands[1:])

    async def test_a_command_wakes_its_addressee(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await eventually(a, lambda it: it.outstanding == 0)
            a.take_changes()
            await client.send(a.node.identity, Command("balance"))
            await until_reported(a, lambda: a.queued_commands())

    async def test_a_command_for_a_session_that_has_gone_is_refused(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,):
            gone = a.node.identity
        async with subject.coordinator.open_client() as client, members(subject, "a") as (a,):
            with raises(NodeNotFound):
                await client.send(gone, Command("drain"))
            await client.send(a.node.identity, Command("freeze"))
            await eventually(a, lambda it: it.queued_commands())
            assert [queued.command for queued in a.queued_commands()] == [Command("freeze")]
