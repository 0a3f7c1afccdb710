"""User traffic in chaos runs records only requests that were acknowledged and ends that were seen.

These tests use the memory coordinator.
"""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from metafora_trio import CoordinatorUnavailable, MemoryCoordinator, RunningTask, Task, open_client, open_consumer
from metafora_trio.testing.history import EventName, History
from stress.chaos.packets import _rules
from stress.chaos.traffic import Traffic


async def work(task: RunningTask) -> None:
    await trio.sleep(task.props.get("seconds", float("inf")))
    if task.id == "burst-4":
        raise ValueError("a bug")


def noted(history: History, ev: EventName) -> list[str]:
    return [event.task for event in history.events if event.ev is ev]


async def test_acknowledged_requests_and_seen_ends_are_recorded(autojump_clock: MockClock) -> None:
    coordinator, history, surprises = MemoryCoordinator(), History(), list[str]()
    async with open_client(coordinator) as client:
        traffic = Traffic(client, history, burst=4, surprises=surprises)
        await traffic.submit([Task("task-1")])
        assert await traffic.submit_burst(0.5) == "4 tasks"
        await traffic.look_for_ends()
        assert noted(history, EventName.DONE) == []
        async with open_consumer(coordinator, work, drain_timeout=0.0):
            await trio.sleep(10)
            await traffic.look_for_ends()
            await traffic.look_for_ends()
            assert await traffic.delete_burst(0.5) == "2 tasks"
            await trio.sleep(10)
            left = [status.id for status in await client.tasks()]

    assert noted(history, EventName.SUBMIT) == ["task-1", "burst-1", "burst-2", "burst-3", "burst-4"]
    assert sorted(noted(history, EventName.DONE)) == ["burst-2", "burst-4"]
    assert surprises == ["burst-4 has ended as failed"]
    assert left == traffic.lasting
    assert sorted([*left, *noted(history, EventName.DELETE)]) == ["burst-1", "burst-3", "task-1"]


async def test_failed_submits_are_not_recorded_and_deletes_are_retried(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, history = MemoryCoordinator(), History()
    calls = Counter[str]()
    async with open_client(coordinator) as client:
        traffic = Traffic(client, history, burst=2, surprises=[])
        await traffic.submit([Task("task-1")])

        async def fail(*arguments: object, **options: object) -> None:
            calls["submit"] += 1
            raise CoordinatorUnavailable("away")

        async def delete(*ids: str) -> None:
            calls["delete"] += 1
            if calls["delete"] == 1:
                raise CoordinatorUnavailable("away")

        monkeypatch.setattr(client, "submit", fail)
        monkeypatch.setattr(client, "delete", delete)
        assert "may or may not" in await traffic.submit_burst(0.5)
        await traffic.delete_burst(0.5)

    assert calls == {"submit": 1, "delete": 2}
    assert (noted(history, EventName.SUBMIT), noted(history, EventName.DELETE)) == (["task-1"], ["task-1"])


async def test_an_end_is_recorded_as_it_happens(autojump_clock: MockClock) -> None:
    """Otherwise a run that starts between the end of a task and its record would count as started before the end."""
    coordinator = MemoryCoordinator()
    history = History(now=lambda: round(trio.current_time() * 1e9))
    ends: list[float] = []

    async def short(task: RunningTask) -> None:
        await work(task)
        ends.append(trio.current_time())

    async with (
        open_client(coordinator) as client,
        trio.open_nursery() as nursery,
        open_consumer(coordinator, short, drain_timeout=0.0),
    ):
        traffic = Traffic(client, history, burst=4, surprises=[])
        await traffic.submit([Task("before", {"seconds": 0.0}), Task("after", {"seconds": 9.3})])
        await trio.sleep(5)
        nursery.start_soon(traffic.follow_ends)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()

    assert noted(history, EventName.DONE) == ["before", "after"]
    assert [event.t / 1e9 for event in history.events[-2:]] == pytest.approx([ends[0] + 3.5, ends[1]])


async def test_two_bursts_of_deletes_at_a_time(autojump_clock: MockClock) -> None:
    async with open_client(MemoryCoordinator()) as client:
        traffic = Traffic(client, History(), burst=8, surprises=[])
        await traffic.submit([Task(f"task-{number}") for number in range(6)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(traffic.delete_burst, 0.5)
            nursery.start_soon(traffic.delete_burst, 0.5)

        assert traffic.lasting == []
        assert [status.state for status in await client.tasks()] == ["deleting"] * 6


async def test_frozen_nodes_are_unfrozen(autojump_clock: MockClock) -> None:
    coordinator = MemoryCoordinator()
    async with open_client(coordinator) as client, open_consumer(coordinator, work, name="n1") as consumer:
        traffic = Traffic(client, History(), burst=4, surprises=[])
        assert not await traffic.unfreeze_all()
        await client.freeze("n1")
        await trio.testing.wait_all_tasks_blocked()
        assert consumer.frozen
        assert await traffic.unfreeze_all()
        assert not consumer.frozen


async def test_unfreezing_is_not_tried_forever(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client(MemoryCoordinator()) as client:

        async def fail() -> None:
            raise CoordinatorUnavailable("away")

        monkeypatch.setattr(client, "nodes", fail)
        with pytest.raises(trio.TooSlowError):
            await Traffic(client, History(), burst=4, surprises=[]).unfreeze_all()


def test_the_rules_that_drop_packets() -> None:
    tcp = ["INPUT", "-i", "lo", "-p", "tcp"]

    assert list(_rules([7, 8], up=True, down=False, share=1.0)) == [
        [*tcp, "--dport", "7", "-j", "DROP"],
        [*tcp, "--dport", "8", "-j", "DROP"],
    ]
    assert list(_rules([7], up=False, down=True, share=1.0)) == [[*tcp, "--sport", "7", "-j", "DROP"]]
    assert list(_rules([7], up=True, down=True, share=0.25)) == [
        [*tcp, direction, "7", "-m", "statistic", "--mode", "random", "--probability", "0.250", "-j", "DROP"]
        for direction in ("--dport", "--sport")
    ]
