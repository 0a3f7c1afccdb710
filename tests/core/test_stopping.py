"""Stopping a task: deletes, its grace and its cleanup, and what may go wrong meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import (
    Outcome,
    RunningTask,
    StatusName,
    StopReason,
    TaskExists,
    TaskNotFound,
)
from tests.support.nodes import Cluster, open_cluster, run_for_ever


async def test_delete_of_a_running_task(autojump_clock: MockClock) -> None:
    """It is stopped, and then it is gone: no state is left."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        await cluster.client.delete("t")
        assert (await cluster.client.wait(["t"]))["t"].state == "deleted"
        assert node.told()[-3:] == ["TaskStopping t deleted", "TaskStopped t deleted", "TaskEnded t killed"]
        with pytest.raises(TaskNotFound):
            await cluster.client.get("t")


async def test_delete_of_an_unclaimed_task(autojump_clock: MockClock) -> None:
    """A node claims it only to remove it."""
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
    """A delete that crosses the end is obeyed, and the same id can be submitted anew: it runs once more."""
    async with open_cluster(latency=latency) as cluster:

        async def completes(task: RunningTask) -> None:
            await trio.sleep(1)

        await cluster.start("a", completes)
        for _ in range(3):
            await cluster.submit_until_running("t")
            await cluster.wait_until(lambda: not cluster.running)
            try:
                await cluster.client.delete("t")
            except TaskNotFound:  # pragma: no cover - by the schedule
                pass
            await cluster.client.wait()
            with pytest.raises(TaskNotFound):
                await cluster.client.get("t")
        assert cluster.starts["t"] == 3


async def test_delete_during_the_grace(autojump_clock: MockClock) -> None:
    """A task that is deleted while it winds down for another node is removed once its scope has closed."""
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
    """Run a task, give it back by a command, and say how long its scope stayed open after that."""
    node = await cluster.start("a", handler, **options)
    await cluster.submit_until_running("t")
    await cluster.client.stop_task("t")
    began = trio.current_time()
    await cluster.wait_until(lambda: not node.tasks and not cluster.running)
    return trio.current_time() - began


async def test_no_grace(autojump_clock: MockClock) -> None:
    """Without grace the scope is cancelled in the same step: who waits for `stopping` is cancelled too."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            await task.stopping.wait()
            cluster.log.append("too kind")

        assert await stop_after(cluster, handler) < 0.1
        assert cluster.log == ["a starts t", "a stops t"]


async def test_grace(autojump_clock: MockClock) -> None:
    """With grace a task winds down by itself; what it returns counts."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> Outcome | None:
            await task.stopping.wait()
            cluster.log.append(f"{task.stop_reason}")
            await trio.sleep(2)
            return None

        assert await stop_after(cluster, handler, grace=5.0) == pytest.approx(2, abs=0.1)
        assert cluster.log == ["a starts t", "released", "a stops t"]
        assert (await cluster.client.wait(["t"]))["t"].state == StatusName.COMPLETED


async def test_grace_runs_out(autojump_clock: MockClock) -> None:
    """After its grace the task is cancelled."""
    async with open_cluster() as cluster:
        assert await stop_after(cluster, run_for_ever, grace=5.0) == pytest.approx(5, abs=0.1)


async def test_released_during_the_grace(autojump_clock: MockClock) -> None:
    """A handler that winds down in its grace and returns RELEASE gives the task back, heir or not."""
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
    """Whatever grace a task is in, it ends when its claim is gone: another may run it already."""
    async with open_cluster() as cluster:
        node = await cluster.start("a", grace=50.0)
        await cluster.submit_until_running("t")
        await cluster.client.stop_task("t")
        await trio.sleep(1)
        node.take_events()
        cluster.remove_claim("t")
        await cluster.wait_until(lambda: not cluster.running, within=0.1)
        assert node.told()[:2] == ["TaskStopping t claim_lost", "TaskStopped t claim_lost"]


async def test_lost_claim_is_told_once(autojump_clock: MockClock) -> None:
    """Whatever else happens to a task while it closes after its claim was lost, it is told to stop only once."""
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
    """A task whose claim an operator has removed is stopped, and then claimed anew."""
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
    """What a handler raises while it is being cancelled is reported; the task does not fail, it goes on elsewhere."""
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
    """Also where only a part of the task raises, and the rest is cancelled as it should be, when the node stops."""
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
    """`cleanup()` shields a handler that must await to clean up, for `cleanup_timeout` seconds."""
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


async def test_handler_that_exits_ends_the_node(autojump_clock: MockClock) -> None:
    """What is no `Exception`, such as SystemExit, is no end of a task: it ends the node."""

    async def handler(task: RunningTask) -> None:
        raise SystemExit(3)

    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        async with open_cluster() as cluster:
            await cluster.start("a", handler)
            await cluster.submit("t")
            await trio.sleep(10)
