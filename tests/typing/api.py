"""The public API as a user writes it. Checked by mypy and pyright (`nox -s types`), never run.

Each `type: ignore` below is an assertion, too: mypy reports one that is not needed, so a mistake stays a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, assert_type

import trio

from metafora_trio import (
    Balancer,
    Client,
    Command,
    CommandName,
    Consumer,
    ConsumerStatistics,
    Coordinator,
    Handler,
    MemoryCoordinator,
    NodesChanged,
    NodeStatus,
    Outcome,
    RunningTask,
    StopReason,
    Task,
    TaskChanged,
    TaskStatus,
    events,
    open_client,
    open_consumer,
)
from metafora_trio.balancers import FairBalancer, GreedyBalancer
from metafora_trio.events import Event


async def handler(task: RunningTask) -> None:
    """A handler that completes by returning, and uses everything that its task offers."""
    assert_type(task.id, str)
    assert_type(task.props, Mapping[str, Any])
    assert_type(task.node, str)
    assert_type(task.token, int)
    assert_type(task.nursery, trio.Nursery)
    assert_type(task.stopping, trio.Event)
    assert_type(task.stop_reason, StopReason | None)
    assert_type(task.started, float)
    assert_type(task.lease.remaining(), float)
    assert_type(task.lease.end, float)
    with task.cleanup() as scope:
        assert_type(scope, trio.CancelScope)


async def undecided(task: RunningTask) -> Outcome | None:
    """A handler that chooses."""
    return Outcome.RELEASE if task.stopping.is_set() else None


async def always_done(task: RunningTask) -> Outcome:
    """A handler with one outcome."""
    return Outcome.DONE


async def wrong_outcome(task: RunningTask) -> int:
    """Not a handler: an int is not an outcome."""
    return 1


def not_async(task: RunningTask) -> None:
    """Not a handler: it cannot be awaited."""


class Workshop:
    """A handler may be a bound method."""

    async def run(self, task: RunningTask) -> None:
        """Handle one task."""


handlers: list[Handler] = [handler, undecided, always_done, Workshop().run]
no_outcome: Handler = wrong_outcome  # type: ignore[assignment]
no_coroutine: Handler = not_async  # type: ignore[assignment]


class Picky(Balancer):
    """A user's own balancer, with the type of every method as narrow as it may be."""

    def can_claim(self, task: str) -> bool:
        """Claim only tasks whose id begins with the name of this node."""
        return task.startswith(self.context.node.name)

    def steal(self) -> list[str]:
        """Ask for nothing."""
        return []

    def release(self) -> Iterable[str]:
        """Give back every running task."""
        return list(self.context.running)

    def consent(self, task: str, heir: str) -> bool:
        """Consent to every heir."""
        return True


async def node(coordinator: Coordinator) -> None:
    """Run a node in both ways."""
    consumer = Consumer(coordinator, handler, name="ant", balancer=Picky(), grace=2, on_overrun="exit")
    async with trio.open_nursery() as nursery:
        await nursery.start(consumer.run)
    async with open_consumer(coordinator, undecided, balancer=FairBalancer()) as opened:
        assert_type(opened, Consumer)
        assert_type(opened.frozen, bool)
        assert_type(opened.tasks, Mapping[str, RunningTask])
        with opened.subscribe() as stream:
            assert_type(await stream.receive(), Event)
        await opened.drain()
    Consumer(coordinator, handler, balancer=GreedyBalancer())
    Consumer(coordinator, handler, on_overrun="ignore")  # type: ignore[arg-type]
    Consumer(coordinator, wrong_outcome)  # type: ignore[arg-type]
    Consumer(coordinator, handler, "ant")  # type: ignore[call-arg]


class Patient(Balancer):
    """A balancer that says when to ask again."""

    def can_claim(self, task: str) -> float:
        """Claim nothing for 2.5 s."""
        return 2.5


async def watch(consumer: Consumer) -> None:
    """Use the statistics and the events of a consumer."""
    statistics = consumer.statistics()
    assert_type(statistics, ConsumerStatistics)
    assert_type(statistics.node, str | None)
    with consumer.subscribe(buffer=100) as stream:
        async for event in stream:
            match event:
                case events.TaskStopping(task=task, reason=reason, heir=heir):
                    assert_type(task, str)
                    assert_type(reason, StopReason)
                    assert_type(heir, str | None)
                case events.BalancerFailed(error=error):
                    assert_type(error, BaseException)
    consumer.freeze()
    consumer.start_draining()
    await consumer.drain()


async def client() -> None:
    """Use a client on the embedded coordinator."""
    async with open_client(MemoryCoordinator()) as opened:
        assert_type(opened, Client)
        await opened.submit(Task("one"))
        await opened.submit([Task("two", {"url": "https://example.org"})], again=True)
        await opened.retry("one", "two")
        await opened.submit("three")  # type: ignore[arg-type]
        assert_type(await opened.tasks(), list[TaskStatus])
        assert_type(await opened.nodes(), list[NodeStatus])
        assert_type(await opened.get("one"), TaskStatus)
        ended: dict[str, TaskStatus] = {}
        assert_type(await opened.wait(["one"], timeout=5, ended=ended), dict[str, TaskStatus])
        await opened.send("ant", Command(CommandName.FREEZE))
        await opened.delete("one", "two")
        async with opened.watch() as changes:
            async for change in changes:
                assert_type(change, TaskChanged | NodesChanged)
