"""TaskRun and TaskRunner: the ends of a run, the check before a scope opens, and the handler's `RunningTask`."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import (
    Consumer,
    InvalidTask,
    MemoryCoordinator,
    Outcome,
    RunningTask,
    Task,
    TaskNotFound,
    TaskStatusName,
    open_client,
)
from metafora_trio._memory.session import MemorySession
from metafora_trio._node.task_run import failure
from metafora_trio.contract import StoredTask
from tests.support.nodes import Cluster, Node, open_cluster

# ---- outcomes


async def completes(task: RunningTask) -> None:
    await trio.sleep(1)


async def done(task: RunningTask) -> Outcome:
    await trio.sleep(1)
    return Outcome.DONE


@pytest.mark.parametrize("handler", [completes, done])
async def test_completed(handler: Callable[[RunningTask], Awaitable[Any]], autojump_clock: MockClock) -> None:
    """A handler that returns None or DONE completes its task."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", handler)
        await cluster.submit("t")
        assert (await cluster.client.wait(["t"]))["t"].state == TaskStatusName.COMPLETED
        await cluster.wait_until(lambda: not node.consumer.statistics().tasks_open)
        assert node.told() == [
            "SessionOpened",
            "TaskClaimed t",
            "TaskStarted t",
            "TaskStopped t",
            "TaskEnded t completed",
        ]
        await trio.sleep(60)
        assert cluster.starts["t"] == 1


async def test_released(autojump_clock: MockClock) -> None:
    """After a node has given a task back, it does not take it again for 1, 2, 4 seconds and so on, up to 60."""
    async with open_cluster() as cluster:
        times: list[float] = []

        async def handler(task: RunningTask) -> Outcome:
            times.append(trio.current_time())
            return Outcome.RELEASE

        node = await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.wait_until(lambda: len(times) == 10, within=1000, every=0.1)
        pauses = [int(later - earlier) for earlier, later in itertools.pairwise(times)]
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert node.told()[:5] == [
            "SessionOpened",
            "TaskClaimed t",
            "TaskStarted t",
            "TaskStopped t",
            "TaskGivenUp t",
        ]


async def test_released_task_goes_elsewhere(autojump_clock: MockClock) -> None:
    """Another node may take a released task at once."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> Outcome:
            return Outcome.RELEASE

        await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.wait_until(lambda: cluster.starts["t"])
        b = await cluster.start("b")
        await cluster.wait_until(lambda: b.tasks == {"t"}, within=70)


async def nonsense(task: RunningTask) -> Any:
    return "done"


async def raises(task: RunningTask) -> None:
    raise LookupError("no such\nthing")


async def child_raises(task: RunningTask) -> None:
    async def child() -> None:
        await trio.sleep(1)
        raise LookupError("no such\nthing")

    task.nursery.start_soon(child)
    await trio.sleep_forever()


async def both_raise(task: RunningTask) -> None:
    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("child")

    task.nursery.start_soon(child)
    await trio.sleep(1)
    raise LookupError("handler")


async def raises_group(task: RunningTask) -> None:
    raise ExceptionGroup("mine", [KeyError("inner")])


async def exits(task: RunningTask) -> None:
    sys.exit(3)


async def child_exits(task: RunningTask) -> None:
    task.nursery.start_soon(exits, task)
    await trio.sleep_forever()


async def raises_base_group(task: RunningTask) -> None:
    raise BaseExceptionGroup("mine", [GeneratorExit(), KeyError("inner")])


async def leaves_a_scope_open(task: RunningTask) -> None:
    trio.CancelScope().__enter__()


async def waits_for_asyncio(task: RunningTask) -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


class Unprintable:
    def __repr__(self) -> str:
        raise LookupError("mine")


async def returns_the_unprintable(task: RunningTask) -> Any:
    return Unprintable()


async def raises_what_cannot_be_shown(task: RunningTask) -> None:
    raise SyntaxError("x", ("f", 1, "not a number", "text"))  # type: ignore[arg-type]


async def raises_a_deep_group(task: RunningTask) -> None:
    error: Any = KeyError("inner")
    for _ in range(400):
        error = ExceptionGroup("outer", [error])
    raise error


async def child_cancels_the_nursery(task: RunningTask) -> None:
    async def child() -> None:
        task.nursery.cancel_scope.cancel()

    task.nursery.start_soon(child)
    await trio.sleep_forever()


FAILURES: dict[Callable[[RunningTask], Awaitable[Any]], tuple[str, str]] = {
    nonsense: ("TypeError", "the handler must return None, Outcome.DONE or Outcome.RELEASE, not 'done'"),
    raises: ("LookupError", "no such"),
    child_raises: ("LookupError", "no such"),
    both_raise: ("ExceptionGroup", "Exceptions from Trio nursery (2 sub-exceptions)"),
    raises_group: ("ExceptionGroup", "mine (1 sub-exception)"),
    exits: ("SystemExit", "3"),
    returns_the_unprintable: ("TypeError", "the handler must return None, Outcome.DONE or Outcome.RELEASE, not <"),
    raises_what_cannot_be_shown: ("SyntaxError", "SyntaxError (it cannot be shown: TypeError)"),
    raises_a_deep_group: ("RuntimeError", "the handler raised an exception group that is nested deeper than 50 levels"),
    child_cancels_the_nursery: ("RuntimeError", "the task's nursery was cancelled from inside"),
    child_exits: ("SystemExit", "3"),
    raises_base_group: ("BaseExceptionGroup", "mine (2 sub-exceptions)"),
    leaves_a_scope_open: ("RuntimeError", "Cancel scope stack corrupted"),
    waits_for_asyncio: ("TypeError", "trio.run received unrecognized yield message"),
}


WITHOUT_A_TRACE = {
    nonsense,
    leaves_a_scope_open,
    returns_the_unprintable,
    raises_what_cannot_be_shown,
    raises_a_deep_group,
    child_cancels_the_nursery,
}


@pytest.mark.parametrize("handler", FAILURES, ids=lambda handler: handler.__name__)
async def test_failed(handler: Callable[[RunningTask], Awaitable[Any]], autojump_clock: MockClock) -> None:
    """An exception or an invalid return value fails only its task. Clients can read the error and the traceback."""
    kind, line = FAILURES[handler]
    async with open_cluster() as cluster:

        async def mostly_well(task: RunningTask) -> Any:
            return await handler(task) if task.id == "bad" else await trio.sleep_forever()

        node = await cluster.start("a", mostly_well)
        await cluster.submit("bad", "good")
        status = (await cluster.client.wait(["bad"]))["bad"]
        assert status.state == TaskStatusName.FAILED
        (error,) = status.errors
        assert error.type == kind
        assert error.error.removeprefix(f"{kind}: ").startswith(line)
        if handler not in WITHOUT_A_TRACE:
            assert "test_task_run.py" in error.traceback
        assert node.tasks == {"good"}
        await trio.sleep(60)
        assert cluster.starts["bad"] == 1
        await cluster.client.delete("bad")
        with pytest.raises(TaskNotFound):
            await cluster.client.get("bad")


async def test_handler_that_is_not_async(autojump_clock: MockClock) -> None:
    """The task fails with an error that says so, and the node goes on."""
    async with open_cluster() as cluster:
        node = await cluster.start_consumer(Consumer(cluster.coordinator, lambda task: None))  # type: ignore[arg-type]
        await cluster.submit("t")
        (error,) = (await cluster.client.wait(["t"]))["t"].errors
        assert "is not async: calling it returns NoneType, not an awaitable" in error.error
        assert not node.ended.is_set()


async def test_keyboard_interrupt_is_meant_for_the_program(autojump_clock: MockClock) -> None:
    """It ends the consumer, whichever code it happens to arrive in, and the task goes on elsewhere."""

    async def interrupted(task: RunningTask) -> None:
        raise KeyboardInterrupt

    coordinator = MemoryCoordinator()
    async with open_client(coordinator) as client:
        await client.submit(Task("t"))
        with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
            await Consumer(coordinator, interrupted).run()
        assert (await client.get("t")).state == "unclaimed"


def test_long_tracebacks_are_cut() -> None:
    """A long traceback keeps its end, and a long message its beginning, because a state must stay small."""
    state = failure(ValueError("x" * 100_000), datetime.datetime.now(datetime.UTC))
    assert len(state.errors[0].traceback) == 16 * 1024
    assert len(state.errors[0].error) == 1000


async def test_task_that_cannot_be_read(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored task that is invalid fails without a run, and is not retried."""
    original = MemorySession.read

    async def read(self: MemorySession, task: str) -> StoredTask | None:
        if task == "broken":
            await trio.lowlevel.checkpoint()
            raise InvalidTask("stored properties are not JSON")
        return await original(self, task)

    monkeypatch.setattr(MemorySession, "read", read)
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit("broken")
        status = (await cluster.client.wait(["broken"]))["broken"]
        assert (status.state, status.errors[0].type) == (TaskStatusName.FAILED, "InvalidTask")
        assert node.told()[1:] == ["TaskClaimed broken", "TaskEnded broken failed"]


# ---- the check before a scope opens


def lose_the_claim(cluster: Cluster, node: Node) -> None:
    cluster.remove_claim("t")


def begin_to_drain(cluster: Cluster, node: Node) -> None:
    node.consumer.start_draining()


def delete_the_task(cluster: Cluster, node: Node) -> None:
    cluster.coordinator._store.delete("t")


@pytest.mark.parametrize("change", [lose_the_claim, begin_to_drain, delete_the_task])
async def test_scope_does_not_open_after_a_change_during_the_read(
    change: Callable[[Cluster, Node], None], autojump_clock: MockClock
) -> None:
    """If the claim is lost, the task deleted or the node drained while the task is read, the scope does not open."""
    async with open_cluster(latency=0.5) as cluster:
        await cluster.start("b", capacity=0)  # a possible heir: node a does not leave before its read is answered
        a = await cluster.start("a", settle=0.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: a.consumer.statistics().tasks_open)
        change(cluster, a)
        await cluster.wait_until(lambda: not a.consumer.statistics().tasks_open)
        assert cluster.starts["t"] == 0


# ---- the handler's argument


async def test_running_task(autojump_clock: MockClock) -> None:
    """A handler gets the id, the properties, the owner, a token that grows with each owner, and an open nursery."""
    async with open_cluster() as cluster:
        seen: list[RunningTask] = []

        async def handler(task: RunningTask) -> None:
            seen.append(task)
            assert task.nursery.child_tasks == frozenset()
            await trio.sleep_forever()

        first = await cluster.start("a", handler)
        await cluster.submit_until_running("t", url="x", sizes=[1, 2])
        (task,) = seen
        assert (task.id, task.props, task.node) == ("t", {"url": "x", "sizes": [1, 2]}, first.identity)
        assert task.started == trio.current_time() or task.started > 0
        assert task.lease.remaining() == task.lease.end == float("inf")
        assert task.stop_reason is None
        assert not task.stopping.is_set()
        assert repr(task) == f"<RunningTask 't' on {first.identity} token={task.token}>"
        assert "TaskLease until inf" in repr(task.lease)
        cluster.crash(first)
        second = await cluster.start("b", handler)
        await cluster.wait_until(lambda: second.tasks == {"t"})
        assert seen[1].token > task.token
        assert repr(task).endswith("stopping (session_lost)>")
        with pytest.raises(RuntimeError, match="scope is closed"):
            _ = task.nursery


async def test_task_runs_until_its_children_have_ended(autojump_clock: MockClock) -> None:
    """A handler may return while its children work. The task ends when the last child has ended."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            task.nursery.start_soon(trio.sleep, 5)

        await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.client.wait(["t"])
        assert trio.current_time() == pytest.approx(1.5 + 5, abs=0.1)


async def test_children_stop_with_the_task(autojump_clock: MockClock) -> None:
    """Stopping a task stops every child in its nursery, and the claim is held until the last one has ended."""
    async with open_cluster() as cluster:

        async def child(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with task.cleanup():
                    await trio.sleep(1)
                    cluster.log.append(f"child ends while {cluster.owners()['t']} owns")

        async def handler(task: RunningTask) -> None:
            task.nursery.start_soon(child, task)

        node = await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.wait_until(lambda: cluster.starts["t"])
        await node.consumer.drain()
        assert cluster.log[-1] == "child ends while ['a'] owns"
