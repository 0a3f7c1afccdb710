"""Tombstones: a deleted task that no node runs is removed by some node, whatever keeps the nodes from taking tasks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import InvalidTask, Task
from metafora_trio._memory.session import MemorySession
from metafora_trio._memory.store import Store
from metafora_trio._model.view import TaskDeleted
from metafora_trio.balancers import FairBalancer
from metafora_trio.contract import ClaimKind, StoredTask
from metafora_trio.events import TaskEnded
from tests.support.nodes import Cluster, Node, open_cluster


class Refuses(FairBalancer):
    """Takes no task."""

    def can_claim(self, task: str) -> bool:
        return False


async def delete_unclaimed(cluster: Cluster, *tasks: str, within: float = 4.0) -> None:
    """Submit tasks that no node claims, delete them, and wait until they are gone."""
    await cluster.submit(*tasks)
    await trio.sleep(20)
    assert set(cluster.coordinator._store.view.unclaimed) == set(tasks)
    await cluster.client.delete(*tasks)
    await cluster.wait_until(lambda: not cluster.coordinator._store.tasks, within=within)
    assert not cluster.starts


def removals(nodes: Iterable[Node]) -> dict[str, int]:
    """Return how many tasks each node has ended since the last call."""
    return {node.consumer.name: sum(isinstance(event, TaskEnded) for event in node.take_events()) for node in nodes}


@pytest.mark.parametrize("options", [{"capacity": 0}, {"balancer": Refuses()}], ids=["full", "refuses"])
async def test_a_node_that_takes_no_task_removes_a_deleted_one(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    """A node that is full, or whose balancer refuses the task, removes it after its deletion."""
    async with open_cluster() as cluster:
        await cluster.start("a", **options)
        await delete_unclaimed(cluster, "t0", "t1")


async def test_a_frozen_node_removes_a_deleted_task(autojump_clock: MockClock) -> None:
    """A frozen node removes a deleted task if no other node can."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        a.consumer.freeze()
        await delete_unclaimed(cluster, "t0", "t1")


async def test_a_draining_node_removes_no_task_of_others(autojump_clock: MockClock) -> None:
    """A node that drains claims nothing, not even to remove it. The next node that joins does that."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", grace=100.0)
        await cluster.submit_until_running("long")
        a.consumer.start_draining()
        await cluster.submit("t")
        await cluster.client.delete("t")
        await cluster.wait_until(a.ended.is_set, within=120)
        assert cluster.coordinator._store.tasks.keys() == {"long", "t"}
        await cluster.start("b")
        await cluster.wait_until(lambda: "t" not in cluster.coordinator._store.tasks, within=15)
        assert cluster.starts == {"long": 2}


async def test_a_drain_ends_although_a_client_deletes_for_ever(autojump_clock: MockClock) -> None:
    """However many deleted tasks there are to remove, a node that begins to drain leaves at once."""
    async with open_cluster(latency=0.05) as cluster:
        a = await cluster.start("a")
        a.consumer.freeze()
        ids = (f"t{number}" for number in itertools.count())

        async def delete_for_ever() -> None:
            while True:
                some = list(itertools.islice(ids, 200))
                await cluster.submit(*some)
                await cluster.client.delete(*some)
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete_for_ever)
            await trio.sleep(4)
            assert removals([a])["a"] > 100
            with trio.move_on_after(5):
                await a.consumer.drain()
            nursery.cancel_scope.cancel()
            assert a.ended.is_set()
        assert not cluster.starts


async def test_nodes_that_take_tasks_come_first(autojump_clock: MockClock) -> None:
    """As long as other nodes exist, frozen nodes remove nothing. The others share the removals."""
    async with open_cluster() as cluster:
        nodes = [await cluster.start(name, capacity=0) for name in "abc"]
        nodes[0].consumer.freeze()
        await delete_unclaimed(cluster, *(f"t{i}" for i in range(40)))
        counts = removals(nodes)
        assert counts["a"] == 0
        assert min(counts["b"], counts["c"]) > 5
        assert counts["b"] + counts["c"] == 40  # each was removed once


async def test_another_node_steps_in(autojump_clock: MockClock) -> None:
    """If the node whose turn it is does not remove a deleted task, the next one does after `backup_delay`."""
    async with open_cluster() as cluster:
        for name in "ab":
            silent = await cluster.start(name, capacity=0)
            cluster.coordinator.partition(silent.identity)
        await cluster.start("c", capacity=0, backup_delay=4.0)
        await delete_unclaimed(cluster, *(f"t{i}" for i in range(10)), within=3 * 4.0 + 3)


async def test_many_at_the_broker_s_limit(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that may hold no more claims still removes deleted tasks, a few at a time."""
    monkeypatch.setattr(MemorySession, "free_claims", 0)
    most = 0
    add_claim = Store.add_claim

    def counted(self: Store, *args: object) -> None:
        nonlocal most
        add_claim(self, *args)  # type: ignore[arg-type]
        most = max(most, sum(1 for _ in self.view.claims()))

    monkeypatch.setattr(Store, "add_claim", counted)
    async with open_cluster(latency=0.05) as cluster:
        await cluster.start("a")
        await delete_unclaimed(cluster, *(f"t{i}" for i in range(100)), within=30)
        assert most <= 32  # 16 claims, while the claims of those before are being removed


async def test_removals_are_no_load(autojump_clock: MockClock) -> None:
    """While many deleted tasks are being removed, no other task moves."""
    async with open_cluster(latency=0.2) as cluster:
        a, b = await cluster.start("a"), await cluster.start("b")
        await cluster.submit_until_running(*(f"run{i}" for i in range(4)))
        for node in (a, b):
            node.consumer.freeze()
        await trio.sleep(2)
        await cluster.submit(*(f"t{i}" for i in range(100)))
        await cluster.client.delete(*(f"t{i}" for i in range(100)))
        for node in (a, b):
            node.consumer.unfreeze()
        await cluster.wait_until(lambda: len(cluster.coordinator._store.tasks) == 4, within=20)
        await trio.sleep(20)
        assert len(a.tasks) == len(b.tasks) == 2
        assert {cluster.starts[f"run{i}"] for i in range(4)} == {1}


@pytest.mark.parametrize("options", [{}, {"capacity": 0}, {"balancer": Refuses()}], ids=["frozen", "full", "refuses"])
async def test_a_claim_for_a_removal_runs_nothing(
    options: dict[str, Any], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the task has been removed and submitted again meanwhile, a node that takes no task gives up its claim."""
    add_claim, claims = Store.add_claim, 0

    def resubmitted_meanwhile(self: Store, task: str, identity: str, kind: ClaimKind) -> None:
        nonlocal claims
        claims += 1
        if claims == 1:
            add_claim(self, task, "other.0", ClaimKind.CLAIM)
            head = self.view.head(task)
            assert head is not None
            self.finish(head, 1, None)
            self.submit([Task(task)], again=False)
        add_claim(self, task, identity, kind)

    monkeypatch.setattr(Store, "add_claim", resubmitted_meanwhile)
    async with open_cluster(latency=0.01) as cluster:
        a = await cluster.start("a", **options)
        if not options:
            a.consumer.freeze()
        await trio.sleep(5)
        await cluster.submit("t")
        await cluster.client.delete("t")
        await trio.sleep(20)
        assert claims == 1
        assert cluster.owners() == {}
        assert not cluster.starts
        b = await cluster.start("b")
        await cluster.wait_until(lambda: b.tasks == {"t"})


async def test_a_task_submitted_again_after_its_removal_runs(autojump_clock: MockClock) -> None:
    """A node runs a task under the same id as one that it has removed."""
    async with open_cluster(latency=0.01) as cluster:
        a = await cluster.start("a")
        a.consumer.freeze()
        await cluster.submit("t")
        await cluster.client.delete("t")
        await cluster.wait_until(lambda: not cluster.coordinator._store.tasks)
        a.consumer.unfreeze()
        await cluster.submit_until_running("t")


# ---- tombstones that no event has shown


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the tasks that are read."""
    recorded: list[str] = []
    read = MemorySession.read

    async def reading(self: MemorySession, task: str) -> StoredTask | None:
        recorded.append(task)
        return await read(self, task)

    monkeypatch.setattr(MemorySession, "read", reading)
    return recorded


async def test_long_unclaimed_tasks_are_read_once(reads: list[str], autojump_clock: MockClock) -> None:
    """A list of tasks may not show their tombstones. So the nodes share the reading of tasks that stay unclaimed."""
    tasks = [f"t{i}" for i in range(60)]
    async with open_cluster() as cluster:
        for name in "abc":
            await cluster.start(name, capacity=0)
        await cluster.submit(*tasks)
        await trio.sleep(5)
        assert reads == []
        await trio.sleep(60)
        assert sorted(reads) == sorted(tasks)


async def test_they_are_read_again_after_a_resync(reads: list[str], autojump_clock: MockClock) -> None:
    """A tombstone may have been written during the disconnection."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", capacity=0)
        await cluster.submit("t")
        await trio.sleep(30)
        cluster.coordinator.partition(a.identity)
        await trio.sleep(5)
        cluster.coordinator.heal(a.identity)
        await trio.sleep(30)
        assert reads == ["t", "t"]


async def test_few_are_read_at_a_time(reads: list[str], autojump_clock: MockClock) -> None:
    """At most 256 tasks are read in each `backup_delay`."""
    async with open_cluster() as cluster:
        await cluster.start("a", capacity=0)
        await cluster.submit(*(f"t{i}" for i in range(600)))
        done = []
        for _ in range(60):
            done.append(len(reads))
            await trio.sleep(1)
        assert max(later - before for before, later in zip(done, done[3:], strict=False)) <= 2 * 256
        assert len(set(reads)) == len(reads) == 600


async def test_a_task_that_cannot_be_read(
    reads: list[str], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the search reads something that is not a task, it continues."""

    async def read(self: MemorySession, task: str) -> StoredTask | None:
        await trio.lowlevel.checkpoint()
        reads.append(task)
        raise InvalidTask("no JSON")

    monkeypatch.setattr(MemorySession, "read", read)
    async with open_cluster() as cluster:
        await cluster.start("a", capacity=0)
        await cluster.submit("t0", "t1")
        await trio.sleep(30)
        assert sorted(reads) == ["t0", "t1"]


async def test_what_has_changed_meanwhile_is_not_read(
    reads: list[str], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search skips a task that another node has claimed since."""
    async with open_cluster() as cluster:
        read = MemorySession.read

        async def claimed_meanwhile(self: MemorySession, task: str) -> StoredTask | None:
            (other,) = {"t0", "t1"} - {task}
            cluster.coordinator._store.add_claim(other, "other.0", ClaimKind.CLAIM)
            await trio.sleep(1)
            return await read(self, task)

        monkeypatch.setattr(MemorySession, "read", claimed_meanwhile)
        await cluster.start("a", balancer=Refuses())
        await cluster.submit("t0", "t1")
        await trio.sleep(30)
        assert len(reads) == 1
        for task in cluster.owners():
            cluster.remove_claim(task)


async def test_a_tombstone_that_is_read_is_removed_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that finds a tombstone removes the task itself, since the other nodes do not know of it."""
    read = MemorySession.read

    async def reading(self: MemorySession, task: str) -> StoredTask | None:
        stored = await read(self, task)
        if stored is not None and stored.deleted:
            self.view.apply(TaskDeleted(task))
            self._changes.tasks[task] = None
            self._changed.set()
        return stored

    monkeypatch.setattr(MemorySession, "read", reading)
    async with open_cluster() as cluster:
        for name in "abc":
            await cluster.start(name, capacity=0)
        await trio.sleep(5)
        store, tasks = cluster.coordinator._store, [f"t{i}" for i in range(12)]
        await cluster.submit(*tasks)
        for task in tasks:
            store.tasks[task] = replace(store.tasks[task], version=1)  # no event shows it
        await trio.sleep(2 * 3.0)
        assert len(store.tasks) == 12
        await cluster.wait_until(lambda: not store.tasks, within=4)
