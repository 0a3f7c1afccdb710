"""The end record: a task that has ended leaves what is needed to understand its end and to run it again."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Consumer, InvalidTask, MemoryCoordinator, Outcome, RunningTask, StateName, Task, TaskState
from metafora_trio._clock import TrioClock
from metafora_trio._memory.session import MemorySession
from metafora_trio._node.task_run import failure
from metafora_trio.contract import StoredTask
from metafora_trio.events import Event, TaskStopped
from tests.support.nodes import open_cluster

EPOCH = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
PROPS = {"url": "https://example.org", "steps": [1, 2]}


async def completes(task: RunningTask) -> None:
    await trio.sleep(5)


async def fails(task: RunningTask) -> None:
    await trio.sleep(5)
    raise ValueError("no")


async def changes_its_properties(task: RunningTask) -> None:
    """Change what can be changed. The record has the properties as submitted, since a second run needs those."""
    await trio.sleep(5)
    task.props["steps"].append(object())


@pytest.mark.parametrize("handler", [completes, fails, changes_its_properties], ids=lambda handler: handler.__name__)
async def test_an_end_is_recorded(handler: Any, autojump_clock: MockClock) -> None:
    """The record has the task's properties, the node and its token, and when the run started and ended."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", handler, clock=TrioClock(EPOCH))
        await cluster.submit("t", **PROPS)
        await cluster.wait_running("t")
        (claim,) = (await cluster.client.get("t")).queue
        state = (await cluster.client.wait(["t"]))["t"].stored_state
        assert state is not None
        assert (state.props, state.node, state.token) == (PROPS, node.identity, claim.seq)
        assert state.started is not None
        assert state.ended == state.started + datetime.timedelta(seconds=5)
        assert EPOCH < state.started < EPOCH + datetime.timedelta(minutes=1)
        assert TaskState.decode(state.encode()) == state


async def test_the_record_is_complete_before_anybody_sees_the_end(autojump_clock: MockClock) -> None:
    """An observer of TaskStopped that changes the node has the end reported in the same step."""
    async with open_cluster() as cluster:

        def freeze(event: Event) -> None:
            if isinstance(event, TaskStopped):
                consumer.freeze()

        consumer = Consumer(cluster.coordinator, cluster.watched(completes), name="a", observers=[freeze])
        await cluster.start_consumer(consumer)
        await cluster.submit("t", **PROPS)
        state = (await cluster.client.wait(["t"]))["t"].stored_state
        assert state is not None
        assert (state.state, state.props) == (StateName.COMPLETED, PROPS)


async def test_a_run_that_gave_the_task_back_leaves_no_trace(autojump_clock: MockClock) -> None:
    """The record tells of the run that ended the task."""
    async with open_cluster() as cluster:

        async def releases_once(task: RunningTask) -> Outcome:
            await trio.sleep(1)
            return Outcome.RELEASE if cluster.starts["t"] == 1 else Outcome.DONE

        await cluster.start("a", releases_once)
        await cluster.submit("t")
        await cluster.wait_running("t")
        first = (await cluster.client.get("t")).token
        await cluster.wait_until(lambda: cluster.starts["t"] == 2)
        second = (await cluster.client.get("t")).token
        state = (await cluster.client.wait(["t"]))["t"].stored_state
        assert state is not None
        assert state.token == second != first


async def test_a_deleted_task_leaves_no_record(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        await cluster.start("a")
        await cluster.submit_until_running("t")
        await cluster.client.delete("t")
        assert (await cluster.client.wait(["t"]))["t"].stored_state is None


async def test_a_task_that_cannot_be_read(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never started and has no properties that could be kept. The record says where it failed."""

    async def read(self: MemorySession, task: str) -> StoredTask | None:
        await trio.lowlevel.checkpoint()
        raise InvalidTask("stored properties: it is not JSON")

    monkeypatch.setattr(MemorySession, "read", read)
    async with open_cluster() as cluster:
        node = await cluster.start("a", clock=TrioClock(EPOCH))
        await cluster.submit("t")
        state = (await cluster.client.wait(["t"]))["t"].stored_state
        assert state is not None
        assert (state.state, state.node, state.props, state.started) == ("failed", node.identity, None, None)
        assert state.token is not None
        assert state.ended == state.errors[0].timestamp


def test_stored_properties_are_kept_as_they_were_written() -> None:
    """A backend passes on what is stored. Without that, the properties are encoded before a handler can change them."""
    assert StoredTask({"a": 1}, encoded=b'{"a": 1}').encoded == b'{"a": 1}'
    assert StoredTask({"a": [1]}).encoded == Task("t", {"a": [1]}).encoded
    assert StoredTask({"a": 1}, encoded=b'{"a": 1}') == StoredTask({"a": 1})


def test_a_failure_can_be_printed() -> None:
    """An error may quote a file name that is not text."""
    (error,) = failure(OSError("no file caf\udce9"), EPOCH).errors
    assert error.error == "OSError: no file caf\\udce9"
    assert error.traceback.encode()


async def test_the_memory_of_a_coordinator_keeps_the_record(autojump_clock: MockClock) -> None:
    """The record outlasts the node and the client that waited for it."""
    coordinator = MemoryCoordinator()
    async with open_cluster(coordinator) as cluster:
        await cluster.start("a", completes)
        await cluster.submit("t", **PROPS)
        await cluster.client.wait(["t"])
    async with open_cluster(coordinator) as cluster:
        assert (await cluster.client.get("t")).props == PROPS
