"""Quarantine: what the broker refuses about one task is reported, tried again later, and costs no other task anything.

The broker of these tests is the embedded one, with sessions that refuse what a test says.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Claim, RunningTask, TaskState, TaskStatusName
from metafora_trio._memory.session import MemorySession
from metafora_trio.contract import StoredTask, TaskRefused, TaskRemoved
from metafora_trio.events import SessionEnded, TaskQuarantined, TaskStarted
from tests.support.nodes import Node, open_cluster


class Refusing:
    """Makes sessions refuse to read some tasks, and to write the ends of some. They try an end again every 5 s.

    Attributes:
        reading, ending: the tasks.
        reads, ends: when a task was read in order to run it, or ended, in vain.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading: set[str] = set()
        self.ending: set[str] = set()
        self.reads: defaultdict[str, list[float]] = defaultdict(list)
        self.ends: defaultdict[str, list[float]] = defaultdict(list)
        self._reasons: WeakKeyDictionary[MemorySession, dict[str, str]] = WeakKeyDictionary()
        self._read, self._finish, self._apply = MemorySession.read, MemorySession.finish, MemorySession._apply
        monkeypatch.setattr(MemorySession, "read", lambda session, task: self.read(session, task))
        monkeypatch.setattr(MemorySession, "finish", lambda session, claim, state: self.finish(session, claim, state))
        monkeypatch.setattr(MemorySession, "refusals", property(self.reasons), raising=False)

    def reasons(self, session: MemorySession) -> Mapping[str, str]:
        reasons = self._reasons.setdefault(session, {})
        for task in [task for task in reasons if not session.view.own_claims(task, session.node.identity)]:
            del reasons[task]
        return reasons

    async def read(self, session: MemorySession, task: str) -> StoredTask | None:
        stored = await self._read(session, task)
        if task in self.reading:
            if session.view.own_claims(task, session.node.identity):  # else the node only looks for a tombstone
                self.reads[task].append(trio.current_time())
            raise TaskRefused(f"cannot read task {task!r}: no auth")
        return stored

    def finish(self, session: MemorySession, claim: Claim, state: TaskState | None) -> None:
        task = claim.task
        if task not in self.ending:
            self._finish(session, claim, state)
        elif claim not in session._leaving:
            self.ends[task].append(trio.current_time())
            session._leaving.add(claim)
            trio.lowlevel.spawn_system_task(self._refuse, session, claim)

    async def _refuse(self, session: MemorySession, claim: Claim) -> None:
        self._reasons.setdefault(session, {})[claim.task] = f"no auth, {len(self.ends[claim.task])}"
        for seconds in (0.01, 5.0):
            session._changes.tasks[claim.task] = None
            session._changed.set()
            await trio.sleep(seconds)
        session._leaving.discard(claim)
        session._changes.tasks[claim.task] = None
        session._changed.set()


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    return Refusing(monkeypatch)


def quarantined(node: Node) -> list[str]:
    return [event.task for event in node.take_events() if isinstance(event, TaskQuarantined)]


def notices(node: Node) -> tuple[str, ...]:
    assert node.consumer._membership is not None
    return node.consumer._membership.session.node.notices


async def test_a_task_that_cannot_be_read(autojump_clock: MockClock, refusing: Refusing) -> None:
    """It is given up, left alone for 1 s, doubling to 60 s, and reported once. The others run on."""
    async with open_cluster() as cluster:
        refusing.reading.add("bad")
        node = await cluster.start("a")
        await cluster.submit_until_running("good")
        await cluster.submit("bad")
        await trio.sleep(200)
        assert quarantined(node) == ["bad"]
        assert notices(node) == ("cannot read task 'bad': no auth",)
        times = refusing.reads["bad"]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert all(first <= gap < first + 4 for first, gap in zip((1, 2, 4, 8, 16, 32, 60), gaps, strict=False))
        assert cluster.starts["good"] == 1
        refusing.reading.clear()
        await cluster.wait_until(lambda: "bad" in cluster.running, within=70)
        assert notices(node) == ()
        assert not any(isinstance(event, SessionEnded) for event in node.take_events())


async def test_a_task_that_another_node_can_read(autojump_clock: MockClock, refusing: Refusing) -> None:
    """The notice goes when the task has stayed with another node for a while, and when the task is gone."""
    async with open_cluster() as cluster:
        refusing.reading.update(("t", "u"))
        a = await cluster.start("a")
        await cluster.submit("t", "u")
        await cluster.wait_until(lambda: len(notices(a)) == 2)
        cluster.coordinator.partition(a.identity)
        refusing.reading.clear()
        await cluster.start("b")
        await cluster.wait_running("t", "u")
        await trio.sleep(1)
        cluster.coordinator.heal(a.identity)
        await cluster.wait_until(lambda: notices(a) == (), within=60)

    async with open_cluster() as cluster:
        refusing.reading.add("t")
        a = await cluster.start("a")
        await cluster.submit("t")
        await cluster.wait_until(lambda: notices(a))
        assert len(a.tasks) == 0
        cluster.coordinator._store.tasks.pop("t")
        cluster.coordinator._store.states.pop("t")
        cluster.coordinator._store._commit(TaskRemoved("t"))
        await cluster.wait_until(lambda: notices(a) == ())


async def test_an_end_that_cannot_be_written(autojump_clock: MockClock, refusing: Refusing) -> None:
    """The handler runs once, the claim is kept, and the end arrives as soon as it is accepted."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            if task.id == "good":
                await trio.sleep_forever()

        refusing.ending.add("bad")
        for name in "ab":
            await cluster.start(name, handler)
        await cluster.submit_until_running("good")
        await cluster.submit("bad")
        await trio.sleep(60)
        assert cluster.starts == {"good": 1, "bad": 1}
        refusing.ending.clear()
        assert (await cluster.client.wait(["bad"]))["bad"].state == TaskStatusName.COMPLETED
        assert cluster.starts == {"good": 1, "bad": 1}


async def test_it_is_reported_once(autojump_clock: MockClock, refusing: Refusing) -> None:
    """The notice follows the reason, but there is one event, and one that the task has ended."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            await trio.lowlevel.checkpoint()

        refusing.ending.add("t")
        node = await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.wait_until(lambda: len(refusing.ends["t"]) == 3)
        await cluster.wait_until(lambda: notices(node) == ("the end of task 't' cannot be written: no auth, 3",))
        told = [type(event).__name__ for event in node.take_events()]
        assert told == ["SessionOpened", "TaskClaimed", "TaskStarted", "TaskStopped", "TaskEnded", "TaskQuarantined"]
        refusing.ending.clear()
        await cluster.wait_until(lambda: notices(node) == ())
        assert node.told() == []


async def test_a_drain_waits_for_it_until_its_deadline(autojump_clock: MockClock, refusing: Refusing) -> None:
    """The end may still be accepted in time. After that, no node would take a task that has ended."""
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            await trio.sleep(1)

        refusing.ending.add("t")
        node = await cluster.start("a", handler, drain_timeout=30.0)
        await cluster.submit("t")
        await cluster.wait_until(lambda: refusing.ends["t"])
        began = trio.current_time()
        await node.consumer.drain()
        assert trio.current_time() - began == pytest.approx(30.0, abs=0.1)
        assert cluster.starts["t"] == 1


async def test_a_node_that_is_cancelled_does_not_wait_for_it(autojump_clock: MockClock, refusing: Refusing) -> None:
    async with open_cluster() as cluster:

        async def handler(task: RunningTask) -> None:
            await trio.sleep(1)

        refusing.ending.add("t")
        node = await cluster.start("a", handler)
        await cluster.submit("t")
        await cluster.wait_until(lambda: notices(node))
        began = trio.current_time()
        node.scope.cancel()
        await node.ended.wait()
        assert trio.current_time() - began == 0


async def test_while_cut_off_nothing_is_released(autojump_clock: MockClock, refusing: Refusing) -> None:
    async with open_cluster(session_timeout=600.0) as cluster:
        refusing.reading.add("t")
        node = await cluster.start("a")
        await cluster.submit("t")
        await cluster.wait_until(lambda: notices(node))
        cluster.coordinator.partition(node.identity)
        await trio.sleep(30)
        assert notices(node) == ("cannot read task 't': no auth",)
        refusing.reading.clear()
        cluster.coordinator.heal(node.identity)
        await cluster.wait_running("t")
        assert [type(event) for event in node.take_events()].count(TaskStarted) == 1
