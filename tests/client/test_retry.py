"""Client.retry: tasks that have ended run again with their own properties."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import metafora_trio as mt
from metafora_trio.contract import Session
from metafora_trio.testing.conformance import eventually
from tests.support.clients import cluster, finish


def ended(props: dict[str, Any] | None) -> mt.TaskState:
    return mt.TaskState(mt.StateName.FAILED, props=props)


async def end(a: Session, client: mt.Client, task: str, props: dict[str, Any] | None) -> None:
    """Submit a task and end it, with these properties in the record of its end."""
    await client.submit(mt.Task(task, props or {}))
    await eventually(a, lambda it: task in it.view.tasks)
    await finish(a, task, ended(props))


async def test_properties_of_a_task_that_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (client, a):
        await end(a, client, "t", {"n": 1})
        assert (await client.get("t")).props == {"n": 1}
        assert [status.props for status in await client.tasks(finished=True)] == [{"n": 1}]


async def test_retry(autojump_clock: trio.testing.MockClock) -> None:
    """The tasks are in the cluster again as they were submitted, and their old ends are forgotten."""
    async with cluster() as (client, a):
        await end(a, client, "t1", {"n": 1})
        await end(a, client, "t2", {})
        await client.retry("t1", "t2", "t1")
        for task, props in (("t1", {"n": 1}), ("t2", {})):
            status = await client.get(task)
            assert (status.state, status.props, status.stored_state) == ("unclaimed", props, mt.TaskState())
        await client.retry()


async def test_what_cannot_be_retried(autojump_clock: trio.testing.MockClock) -> None:
    """All are checked before any is submitted."""
    async with cluster("waiting", "deleting") as (client, a):
        await eventually(a, lambda it: len(it.view.tasks) == 2)
        await end(a, client, "good", {"n": 1})
        await end(a, client, "old", None)
        await client.delete("deleting")
        for task, error, message in [
            ("nope", mt.TaskNotFound, "no task 'nope'"),
            ("waiting", mt.TaskExists, "task 'waiting' is in the cluster already"),
            ("deleting", mt.TaskExists, "task 'deleting' is still ending"),
            ("old", mt.TaskFinished, r"task 'old' has ended \(failed\), but the record .* submit it with again=True"),
            ("a/b", mt.InvalidTask, "'/'"),
        ]:
            with pytest.raises(error, match=message):
                await client.retry("good", task)
        assert (await client.get("good")).state == "failed"


async def test_a_record_without_a_task_is_no_end(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    coordinator._store.states["t"] = mt.TaskState()
    async with mt.open_client(coordinator) as client:
        with pytest.raises(mt.TaskNotFound, match="task 't' is stray: it has no end to retry"):
            await client.retry("t")
