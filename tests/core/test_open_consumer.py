"""open_consumer: runs a node beside a body. The end of the body decides how the node ends."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import (
    Command,
    CommandName,
    Consumer,
    ConsumerOptions,
    CoordinatorUnavailable,
    MemoryCoordinator,
    RunningTask,
    StopReason,
    open_consumer,
)
from tests.support.nodes import open_cluster, run_for_ever


async def test_body_begins_when_joined(autojump_clock: MockClock) -> None:
    """While the body runs, the node is a member of the cluster."""
    async with open_cluster(latency=0.5) as cluster:
        async with open_consumer(cluster.coordinator, run_for_ever, name="a", tags=["x"], capacity=3) as consumer:
            await trio.sleep(1)
            (node,) = await cluster.client.nodes()
            assert node.node.identity == consumer.statistics().node
            assert (node.node.name, node.node.tags, node.node.capacity) == ("a", frozenset("x"), 3)
        await trio.sleep(1)
        assert await cluster.client.nodes() == []


async def test_normal_exit_drains(autojump_clock: MockClock) -> None:
    """If the body ends normally, the node hands all its tasks over before the context exits."""
    async with open_cluster() as cluster:
        async with open_consumer(cluster.coordinator, cluster.watched(run_for_ever), name="a"):
            await cluster.submit_until_running("t")
            b = await cluster.start("b")
            await trio.sleep(5)
        await cluster.wait_until(lambda: b.tasks == {"t"}, within=0.1)
        assert cluster.log == ["a starts t", "a stops t", "b starts t"]


async def test_normal_exit_waits_no_longer_than_drain_timeout(autojump_clock: MockClock) -> None:
    """If no other node takes the tasks, the context exits after `drain_timeout`."""
    async with open_cluster() as cluster:
        async with open_consumer(cluster.coordinator, cluster.watched(run_for_ever), drain_timeout=4.0):
            await cluster.submit_until_running("t")
            await cluster.start("b", capacity=0)
            await trio.sleep(1)
            left = trio.current_time()
        assert trio.current_time() - left == pytest.approx(4, abs=0.1)


async def test_exception_stops_at_once(autojump_clock: MockClock) -> None:
    """If the body raises, the node stops at once, without grace, and the same exception leaves the context."""
    async with open_cluster() as cluster:
        error = KeyError("mine")
        began = 0.0
        with pytest.raises(KeyError) as caught:  # noqa: PT012 - the test is about the body
            async with open_consumer(cluster.coordinator, cluster.watched(run_for_ever), name="a", grace=9):
                await cluster.submit_until_running("t")
                await cluster.start("b")
                await trio.sleep(1)
                began = trio.current_time()
                raise error
        assert caught.value is error
        assert trio.current_time() == began
        assert cluster.log[:2] == ["a starts t", "a stops t"]


async def test_group_of_the_body_is_left_alone(autojump_clock: MockClock) -> None:
    """An exception group that the body raises leaves the context unchanged, even if it holds one exception."""
    error = KeyError("inner")
    with pytest.raises(ExceptionGroup) as caught:
        async with open_consumer(MemoryCoordinator(), run_for_ever):
            raise ExceptionGroup("mine", [error])
    assert (caught.value.message, caught.value.exceptions) == ("mine", (error,))


async def test_cancellation_stops_at_once(autojump_clock: MockClock) -> None:
    """If the body is cancelled, the node stops at once. Tasks may clean up, and no claim is left."""
    async with open_cluster() as cluster:
        reasons: list[StopReason | None] = []

        async def handler(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                reasons.append(task.stop_reason)
                with task.cleanup():
                    await trio.sleep(2)

        began = 0.0
        with trio.CancelScope() as scope:
            async with open_consumer(cluster.coordinator, cluster.watched(handler), name="a"):
                await cluster.submit_until_running("t")
                began = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == began + 2
        assert reasons == [StopReason.SHUTDOWN]
        assert cluster.owners() == {}


async def test_cancelled_while_it_drains(autojump_clock: MockClock) -> None:
    """Cancelling the drain on exit stops the tasks at once."""
    async with open_cluster() as cluster:
        with trio.move_on_after(20) as scope:
            async with open_consumer(cluster.coordinator, cluster.watched(run_for_ever), name="a"):
                await cluster.submit_until_running("t")
                await cluster.start("b", capacity=0)
                await trio.sleep(1)
        assert scope.cancelled_caught
        assert cluster.log == ["a starts t", "a stops t"]


async def test_node_that_leaves_by_command(autojump_clock: MockClock) -> None:
    """If an operator drains the node, the body continues and later ends without an error."""
    async with open_cluster() as cluster:
        async with open_consumer(cluster.coordinator, run_for_ever, name="a") as consumer:
            await cluster.client.send("a", Command(CommandName.DRAIN))
            await trio.sleep(5)
            assert consumer.statistics().node is None
            assert await cluster.client.nodes() == []


async def test_unreachable_broker(autojump_clock: MockClock) -> None:
    """If the first join fails, the body does not begin."""
    coordinator = MemoryCoordinator(connect_timeout=2)
    coordinator.outage = True
    with pytest.raises(CoordinatorUnavailable, match="2 s"):
        async with open_consumer(coordinator, run_for_ever):
            raise AssertionError("the body began")  # pragma: no cover - must not run
    assert trio.current_time() == 2


async def test_node_that_fails_cancels_the_body(autojump_clock: MockClock) -> None:
    """Any other exception that ends the node, such as an interrupt, cancels the body and propagates."""

    async def handler(task: RunningTask) -> None:
        raise KeyboardInterrupt

    async with open_cluster() as cluster:
        with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
            async with open_consumer(cluster.coordinator, handler):
                await cluster.submit("t")
                await trio.sleep_forever()


def test_options_match_the_arguments_of_consumer() -> None:
    """`ConsumerOptions` has the keyword arguments of `Consumer`, with the same types."""
    parameters = inspect.signature(Consumer).parameters.values()
    keywords = {it.name: it.annotation for it in parameters if it.kind is inspect.Parameter.KEYWORD_ONLY}
    assert ConsumerOptions.__annotations__.keys() == keywords.keys()
    hints, options = get_type_hints(Consumer.__init__), get_type_hints(ConsumerOptions)
    assert {name: hints[name] for name in keywords} == options


async def test_options_reach_the_node(autojump_clock: MockClock) -> None:
    """A node opened with `settle=0` claims its first task at once. An unknown option is refused."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        async with open_consumer(cluster.coordinator, run_for_ever, settle=0.0):
            await trio.sleep(0.5)
            assert cluster.owners() != {}
        with pytest.raises(TypeError, match="unexpected keyword argument 'setle'"):
            async with open_consumer(cluster.coordinator, run_for_ever, setle=0.0):  # type: ignore[call-arg]
                pass
