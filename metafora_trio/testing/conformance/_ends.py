"""The conformance suite for the end of a task: done, or deleted."""

from __future__ import annotations

import trio

from metafora_trio import StateName, TaskState
from metafora_trio.contract import Session

from ._subject import Subject, eventually, get_claim, look_up, members, submit

__all__ = ["EndConformance"]

COMPLETED = TaskState(StateName.COMPLETED)


class EndConformance:
    """Finishing and deleting tasks."""

    async def test_finish_removes_task_and_claim_and_sets_the_state(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b), subject.coordinator.open_client() as client:
            await submit(subject, [a, b], "t")
            claim = await get_claim(a, "t", seen_by=[b])
            a.finish(claim, COMPLETED)
            assert a.is_leaving(claim)
            for session in (a, b):
                await eventually(session, lambda it: "t" not in it.view.tasks and not it.view.head("t"))
            await eventually(a, lambda it: not it.is_leaving(claim))
            snapshot = await look_up(client, "t")
            assert (snapshot.task, snapshot.state, list(snapshot.queue)) == (None, COMPLETED, [])
            assert list(await client.finished()) == ["t"]

    async def test_a_finished_task_is_never_shown_to_its_heir(self, subject: Subject) -> None:
        """The task is removed before the claim. Otherwise the bidder, now head of the queue, would start it again."""
        async with members(subject, "a", "b") as (a, b):
            await submit(subject, [a, b], "t")
            claim = await get_claim(a, "t", seen_by=[b])
            bid = await get_claim(b, "t", bid=True, seen_by=[a])
            a.finish(claim, COMPLETED)

            def seen(b: Session) -> bool:
                assert b.view.head("t") == claim or "t" not in b.view.tasks
                return b.view.head("t") == bid

            await eventually(b, seen)
            b.release(bid)
            await eventually(a, lambda it: not it.view.head("t"))

    async def test_finish_without_the_claim_changes_nothing(self, subject: Subject) -> None:
        """A former owner cannot end the task."""
        async with members(subject, "a", "b") as (a, b), subject.coordinator.open_client() as client:
            await submit(subject, [a, b], "t")
            claim = await get_claim(a, "t", seen_by=[b])
            a.release(claim)
            await eventually(a, lambda it: it.view.head("t") is None and not it.is_leaving(claim))
            other = await get_claim(b, "t", seen_by=[a])
            a.finish(claim, COMPLETED)
            await eventually(a, lambda it: it.outstanding == 0)
            snapshot = await look_up(client, "t")
            assert snapshot.task is not None
            assert (snapshot.state, list(snapshot.queue)) == (TaskState(), [other])

    async def test_a_delete_is_a_tombstone(self, subject: Subject) -> None:
        async with members(subject, "a", "b") as (a, b), subject.coordinator.open_client() as client:
            await submit(subject, [a, b], "t")
            claim = await get_claim(a, "t", seen_by=[b])
            await client.delete(["t"])
            for session in (a, b):
                await eventually(session, lambda it: it.view.deleted("t"))
                assert session.view.head("t") == claim
                stored = await session.read("t")
                assert stored is not None
                assert (stored.version, stored.deleted) == (1, True)
            a.finish(claim, None)
            await eventually(b, lambda it: "t" not in it.view.tasks and not it.view.head("t"))
            snapshot = await look_up(client, "t")
            assert (snapshot.task, snapshot.state, list(snapshot.queue)) == (None, None, [])

    async def test_a_finish_and_a_delete_never_undo_each_other(self, subject: Subject) -> None:
        """In either order, however close together: either the task has ended and is gone, or it has a tombstone and
        its owner, which had not seen the tombstone yet, still has the claim and decides again."""
        tasks = [f"t{n}" for n in range(20)]
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await submit(subject, [a], *tasks)
            claims = {task: await get_claim(a, task) for task in tasks}

            known: dict[str, bool] = {}

            async def race(task: str, ahead: float) -> None:
                nursery.start_soon(client.delete, [task])
                await trio.sleep(ahead)
                known[task] = a.view.deleted(task)
                a.finish(claims[task], COMPLETED)

            async with trio.open_nursery() as nursery:
                for n, task in enumerate(tasks):
                    nursery.start_soon(race, task, 0.0005 * 1.5**n)
            await eventually(a, lambda it: it.outstanding == 0)
            ending = set()
            for task in tasks:
                snapshot = await look_up(client, task)
                if snapshot.task is None:  # if the delete came last, it removed the state
                    assert snapshot.state == (COMPLETED if known[task] else None)
                    assert list(snapshot.queue) == []
                else:
                    assert (snapshot.task.deleted, snapshot.state) == (True, TaskState())
                    assert list(snapshot.queue) == [claims[task]]
                    ending.add(task)
            await eventually(a, lambda it: it.view.tasks == dict.fromkeys(ending, True))

    async def test_a_deleted_id_is_not_taken_for_a_prefix(self, subject: Subject) -> None:
        async with members(subject, "a") as (a,), subject.coordinator.open_client() as client:
            await submit(subject, [a], "task1", "task10")
            await client.delete(["task1"])
            await eventually(a, lambda it: it.view.deleted("task1"))
            a.finish(await get_claim(a, "task1"), None)
            await eventually(a, lambda it: "task1" not in it.view.tasks)
            assert list(a.view.tasks) == ["task10"]
            assert not a.view.deleted("task10")
            assert (await look_up(client, "task10")).state == TaskState()
