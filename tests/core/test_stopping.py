"""Stopping a task: a delete, its grace, its cleanup, a lost claim, and errors while it stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Outcome, RunningTask, StopReason, TaskExists, TaskNotFound, TaskStatusName
from tests.support.nodes import Cluster, open_cluster, run_for_ever


async def test_delete_of_a_running_task(autojump_clock: MockClock) -> None:
    """A deleted task stops, and then it is removed together with its state."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        await cluster.client.delete("t")
        assert (await cluster.client.wait(["t"]))["t"].state == "deleted"
        assert node.told()[-3:] == ["TaskStopping t deleted", "TaskStopped t deleted", "TaskEnded t killed"]
        with pytest.raises(TaskNotFound):
            await cluster.client.get("t")


async def test_delete_of_an_unclaimed_task(autojump_clock: MockClock) -> None:
    """A node claims a deleted task only to remove it."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        await cluster.client.delete("t")
        with pytest.raises(TaskExists, match="still ending"):
            await cluster.submit("t")
        node = await cluster.start("a")
        await cluster.client.wait(["t"])
        assert node.told()[1:] == ["TaskEnded t killed"]
        assert cluster.starts["t"] == 0


@pytest.mark.parametrize("latency", [0.0, 0.05])
async def test_delete_and_submit_again_while_finishing(latency: float, autojump_clock: MockClock) -> None:
    """A delete may race with the end of the task. Afterwards the same id can be submitted again, and runs once."""
    async with open_cluster(latency=latency) as cluster:

        async def completes(task: RunningTask) -> None:
            await trio.sleep(1)

        await cluster.start("a", completes)
        for _ in range(3):
            await cluster.submit_until_running("t")
            await cluster.wait_until(lambda: not cluster.running)
            try:
                await cluster.client.delete("t")
            except TaskNotFound:  # pragma: no cover - depends on the schedule
                pass
            await cluster.client.wait()
            with pytest.raises(TaskNotFound):
                await cluster.client.get("t")
        assert cluster.starts["t"] == 3


async def test_delete_during_the_grace(autojump_clock: MockClock) -> None:
    """A task that is deleted during its grace is removed once its scope has closed."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", grace=5.0)
        await cluster.submit_until_running("t")
        await cluster.client.stop_task("t")
        await cluster.wait_until(lambda: not node.tasks)
        await cluster.client.delete("t")
        await cluster.client.wait(["t"])
        assert node.told()[-1] == "TaskEnded t killed"
        assert cluster.starts["t"] == 1


# ---- stopping


async def stop_after(cluster: Cluster, handler: Callable[[RunningTask], Awaitable[Any]], **options: Any) -> float:
    """Run a task, stop it by the command stop_task, and return how many seconds later its scope has closed."""
    node = await cluster.start("a", handler, **options)
    await cluster.submit_until_running("t")
    await cluster.client.stop_task("t")
    began = trio.current_time()
    await cluster.wait_until(lambda: not node.tasks and not cluster.running)
    return trio.current_time() - began


async def test_no_grace(autojump_clock: MockClock) -> None:
    """Without grace, the scope is cancelled before `stopping` is set: a handler that waits for it does not wake up."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            await task.stopping.wait()
            cluster.log.append("a woke up")

        assert await stop_after(cluster, handler) < 0.1
        assert cluster.log == ["a starts t", "a stops t"]


async def test_grace(autojump_clock: MockClock) -> None:
    """During its grace, a handler may stop by itself, and its return value counts."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> Outcome | None:
            await task.stopping.wait()
            cluster.log.append(f"{task.stop_reason}")
            await trio.sleep(2)
            return None

        assert await stop_after(cluster, handler, grace=5.0) == pytest.approx(2, abs=0.1)
        assert cluster.log == ["a starts t", "released", "a stops t"]
        assert (await cluster.client.wait(["t"]))["t"].state == TaskStatusName.COMPLETED


async def test_grace_ends(autojump_clock: MockClock) -> None:
    """At the end of its grace, the task is cancelled."""
    async with open_cluster() as cluster:
        assert await stop_after(cluster, run_for_ever, grace=5.0) == pytest.approx(5, abs=0.1)


async def test_released_during_the_grace(autojump_clock: MockClock) -> None:
    """A handler that returns RELEASE during its grace gives the task to any node, even if there is an heir."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> Outcome:
            await task.stopping.wait()
            return Outcome.RELEASE

        a = await cluster.start("a", handler, grace=5.0)
        await cluster.submit_until_running("t")
        b = await cluster.start("b")
        await trio.sleep(1)
        a.consumer.start_draining()
        await cluster.wait_until(lambda: b.tasks == {"t"})
        assert a.told()[-4:] == ["TaskStopping t drained b", "TaskStopped t drained", "TaskGivenUp t", "SessionEnded"]


async def test_no_grace_once_the_claim_is_lost(autojump_clock: MockClock) -> None:
    """If its claim is lost, a task is cancelled at once even during its grace: another node may run it already."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", grace=50.0)
        await cluster.submit_until_running("t")
        await cluster.client.stop_task("t")
        await trio.sleep(1)
        node.take_events()
        cluster.remove_claim("t")
        await cluster.wait_until(lambda: not cluster.running, within=0.1)
        assert node.told()[:2] == ["TaskStopping t claim_lost", "TaskStopped t claim_lost"]


async def test_lost_claim_is_reported_once(autojump_clock: MockClock) -> None:
    """A task that closes because its claim was lost is not told to stop again, even if it is deleted."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with task.cleanup():
                    await trio.sleep(2)

        node = await cluster.start("a", handler)
        await cluster.submit_until_running("t")
        node.take_events()
        cluster.remove_claim("t")
        await trio.sleep(1)
        await cluster.client.delete("t")
        await cluster.client.wait(["t"])
        assert node.told() == ["TaskStopping t claim_lost", "TaskStopped t claim_lost", "TaskEnded t killed"]


async def test_claim_removed_by_hand(autojump_clock: MockClock) -> None:
    """If an operator removes the claim of a running task, the task stops and is then claimed again."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", grace=50.0)
        await cluster.submit_until_running("t")
        node.take_events()
        cluster.remove_claim("t")
        await cluster.wait_until(lambda: cluster.starts["t"] == 2)
        assert node.told()[:4] == [
            "TaskStopping t claim_lost",
            "TaskStopped t claim_lost",
            "TaskClaimed t",
            "TaskStarted t",
        ]


async def test_stop_that_fails(autojump_clock: MockClock) -> None:
    """An exception raised while a task is cancelled is reported. The task does not fail; the heir runs it."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("cannot close")

        a = await cluster.start("a", handler)
        await cluster.submit_until_running("t")
        b = await cluster.start("b")
        await trio.sleep(1)
        a.consumer.start_draining()
        await cluster.wait_until(lambda: b.tasks == {"t"})
        assert a.told()[-4:-1] == ["TaskStopped t drained", "TaskStopFailed t", "TaskGivenUp t b"]


async def test_stop_that_fails_in_a_child(autojump_clock: MockClock) -> None:
    """An exception that only a child raises, while the node is cancelled, is reported too."""
    async with open_cluster() as cluster:

        async def child(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                assert task.stop_reason is StopReason.SHUTDOWN
                raise OSError("cannot close")

        async def handler(task: RunningTask) -> None:
            task.nursery.start_soon(child, task)
            await trio.sleep_forever()

        node = await cluster.start("a", handler)
        await cluster.submit_until_running("t")
        node.scope.cancel()
        await node.ended.wait()
        assert node.told()[-3:] == ["TaskStopped t shutdown", "TaskStopFailed t", "SessionEnded"]


@pytest.mark.parametrize("needs, timeout, gets", [(2, 5, 2), (20, 5, 5), (20, 0, 0)])
async def test_cleanup(needs: float, timeout: float, gets: float, autojump_clock: MockClock) -> None:
    """`cleanup()` shields a handler that awaits while it cleans up, for at most `cleanup_timeout` seconds."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with task.cleanup() as scope:
                    await trio.sleep(needs)
                cluster.log.append("cut short" if scope.cancelled_caught else "cleaned up")

        assert await stop_after(cluster, handler, cleanup_timeout=timeout) == pytest.approx(gets, abs=0.1)
        assert cluster.log[1:] == ["cleaned up" if needs == gets else "cut short", "a stops t"]


async def test_cleanup_is_not_cut_short_while_the_lease_is_renewed(autojump_clock: MockClock) -> None:
    """The end of the lease limits a cleanup, and every heartbeat postpones it: a short lease alone cuts nothing."""
    async with open_cluster(session_timeout=2.0) as cluster:
        cut: list[bool] = []

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with task.cleanup() as scope:
                    await trio.sleep(4)
                cut.append(scope.cancelled_caught)

        assert await stop_after(cluster, handler) == pytest.approx(4, abs=0.1)
        assert cut == [False]


async def test_cleanup_keeps_a_deadline_that_the_handler_has_set(autojump_clock: MockClock) -> None:
    """No renewal of the lease postpones it."""
    async with open_cluster(session_timeout=2.0) as cluster:

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with task.cleanup() as scope:
                    scope.deadline = trio.current_time() + 2
                    await trio.sleep(4)

        assert await stop_after(cluster, handler) == pytest.approx(2, abs=0.1)
