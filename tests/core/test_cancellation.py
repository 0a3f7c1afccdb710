"""Cancellation: a node disturbed at any step of the scheduler leaves no claim, and no task is lost or runs twice.

The life of the node includes everything: joining, claiming, starting, running, ending, giving back, deleting, handing
over and draining. A second node runs beside it and must own all remaining tasks in the end.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Consumer, Outcome, RunningTask, TaskStatusName
from metafora_trio._memory.session import MemorySession
from metafora_trio.contract import StoredTask
from tests.support.nodes import Cluster, Node, open_cluster

Disturb = Callable[[Cluster, Node], None]


class AfterSteps(trio.abc.Instrument):
    """Counts the steps of the scheduler, and calls `act` after step number `when`."""

    def __init__(self, when: int, act: Callable[[], None]) -> None:
        self.when = when
        self.act = act
        self.steps = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self.when:
            self.act()


class Work:
    """The handler of the tasks, and a record of their ends."""

    def __init__(self) -> None:
        self.completed = 0
        self.given_back: Counter[str] = Counter()

    async def handler(self, task: RunningTask) -> Outcome | None:
        match task.id:
            case "quick":
                await trio.sleep(1)
                self.completed += 1
                return None
            case "back" if self.given_back[task.node] == 0:
                self.given_back[task.node] += 1
                return Outcome.RELEASE
            case "parent":
                task.nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
            case _:
                try:
                    await trio.sleep_forever()
                finally:
                    with task.cleanup():
                        await trio.sleep(0.05)


async def live(cluster: Cluster, work: Work, when: int, disturb: Disturb) -> int:
    """Run node a from joining to leaving, disturbed after `when` steps (0: never). Returns the number of steps."""

    def consumer(name: str) -> Consumer:
        handler = cluster.watched(work.handler)
        return Consumer(cluster.coordinator, handler, name=name, settle=0.1, rng=random.Random(name))

    await cluster.submit("quick", "back", "parent", "gone", "long")
    a = cluster.begin(consumer("a"))
    instrument = AfterSteps(when, lambda: disturb(cluster, a))
    trio.lowlevel.add_instrument(instrument)
    await trio.sleep(0.8)
    cluster.begin(consumer("b"))
    await trio.sleep(1)
    await cluster.client.delete("gone")
    await trio.sleep(1)
    a.consumer.start_draining()
    await trio.sleep(2)
    trio.lowlevel.remove_instrument(instrument)
    await cluster.wait_until(a.ended.is_set)
    staying = {"back", "long", "parent"}
    await cluster.wait_until(lambda: set(cluster.running) == staying and set(cluster.owners()) == staying)
    assert cluster.owners() == {task: ["b"] for task in staying}
    assert (await cluster.client.get("quick")).state == TaskStatusName.COMPLETED
    assert {task.id for task in await cluster.client.tasks(finished=True)} == {*staying, "quick"}
    return instrument.steps


def life(when: int = 0, disturb: Disturb = lambda cluster, node: None) -> tuple[int, Work]:
    """Run one life on virtual time. Returns the number of its steps, and the record of the work."""
    work = Work()

    async def main() -> int:
        async with open_cluster(latency=0.003) as cluster:
            return await live(cluster, work, when, disturb)

    return trio.run(main, clock=MockClock(autojump_threshold=0)), work


def if_joined(disturb: Callable[[Cluster, str], None]) -> Disturb:
    """Disturb the node's session, if it has one."""

    def act(cluster: Cluster, node: Node) -> None:
        if identity := node.consumer.statistics().node:
            disturb(cluster, identity)

    return act


def cancel(cluster: Cluster, node: Node) -> None:
    node.scope.cancel()


def crash(cluster: Cluster, node: Node) -> None:
    if node.consumer.statistics().node:
        cluster.coordinator.crash(node.identity)
    node.scope.cancel()


@functools.cache
def steps_of_a_life() -> int:
    return life()[0]


def test_undisturbed() -> None:
    """An undisturbed life takes many steps and includes a completed task and a release on each node."""
    steps, work = life()
    assert steps > 200
    assert work.completed == 1
    assert len(work.given_back) == 2


@pytest.mark.parametrize("part", range(4))
def test_cancelled_at_every_step(part: int) -> None:
    """A node cancelled at any step leaves no claim and no handler behind, and a completed task does not run again."""
    for when in range(1 + part, steps_of_a_life(), 4):
        _, work = life(when, cancel)
        assert work.completed == 1, f"cancelled after {when} steps"


def test_cancelled_in_the_step_that_opens_the_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is cancelled after reading a task, and before calling the handler, runs no line of the handler."""

    async def main() -> None:
        async with open_cluster() as cluster:
            original = MemorySession.read

            async def read(self: MemorySession, task: str) -> StoredTask | None:
                record = await original(self, task)
                node.scope.cancel()
                return record

            monkeypatch.setattr(MemorySession, "read", read)
            node = await cluster.start("a")
            await cluster.submit("t")
            await node.ended.wait()
            assert cluster.starts["t"] == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "disturb",
    [
        crash,
        if_joined(lambda cluster, identity: cluster.coordinator.expire(identity)),
        lambda cluster, node: node.consumer.start_draining(),
    ],
    ids=["crash", "expire", "drain"],
)
def test_disturbed_at_many_steps(disturb: Disturb) -> None:
    """A node may crash, lose its session or begin to drain at any step: no task is lost, and none runs on two nodes."""
    for when in range(1, steps_of_a_life(), 3):
        life(when, disturb)


def test_cut_off_at_many_steps() -> None:
    """A node may be cut off for a short time at any step: its tasks complete once, and no task is lost."""
    for when in range(2, steps_of_a_life(), 3):

        def cut_off(cluster: Cluster, identity: str) -> None:
            coordinator = cluster.coordinator

            async def heal() -> None:
                await trio.sleep(0.3)
                if identity in coordinator._sessions:
                    coordinator.heal(identity)

            coordinator.partition(identity)
            cluster._nursery.start_soon(heal)

        _, work = life(when, if_joined(cut_off))
        assert work.completed == 1, f"cut off after {when} steps"
