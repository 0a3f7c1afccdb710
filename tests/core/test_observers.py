"""Observers that act, and observers that fail in unusual ways: neither harms the node."""

from __future__ import annotations

import logging
import sys
from collections import Counter

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from metafora_trio import Consumer, MemoryCoordinator, StopReason, events
from metafora_trio._node.event_stream import EventStream
from metafora_trio._node.log_observer import LogObserver
from metafora_trio.events import Event
from tests.support.nodes import open_cluster, run_for_ever

STARTED = events.TaskStarted("a.1", "t", 7)


async def test_observer_that_changes_the_node_during_a_handover(autojump_clock: MockClock) -> None:
    """Each task is stopped once and given up once, and the handovers go on, one after the other."""
    async with open_cluster() as cluster:
        seen: Counter[tuple[str, str]] = Counter()

        def freezes_and_unfreezes(event: Event) -> None:
            if isinstance(event, events.TaskStopping | events.TaskGivenUp):
                seen[type(event).__name__, event.task] += 1
                a.consumer.freeze()
                a.consumer.unfreeze()

        a = await cluster.start("a", max_handovers=1, observers=[freezes_and_unfreezes])
        tasks = [f"t{number}" for number in range(6)]
        await cluster.submit(*tasks)
        await cluster.wait_running(*tasks)
        b = await cluster.start("b")
        await cluster.wait_until(lambda: len(b.tasks) == 3)
        assert set(seen.values()) == {1}
        assert len(seen) == 2 * 3


async def test_observer_that_drains_the_node_when_a_task_stops(autojump_clock: MockClock) -> None:
    """The task keeps the reason for which it was stopped first."""
    async with open_cluster() as cluster:
        reasons: list[object] = []

        def drains(event: Event) -> None:
            if isinstance(event, events.TaskStopping | events.TaskStopped):
                reasons.append(event.reason)
                a.consumer.start_draining()

        a = await cluster.start("a", observers=[drains])
        await cluster.submit("t")
        await cluster.wait_running("t")
        await cluster.client.stop_task("t")
        await a.ended.wait()
        assert reasons == [StopReason.RELEASED, StopReason.RELEASED]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), BaseExceptionGroup("no", [GeneratorExit()])])
def test_observer_that_raises_anything_is_removed(error: BaseException) -> None:
    """Whatever an observer raises, the node goes on without it, and the other observers miss no event."""
    seen: list[Event] = []

    class Faulty:
        def __call__(self, event: Event, /) -> None:
            raise error

        def __repr__(self) -> str:
            raise error

    faulty = Faulty()
    stream = EventStream([faulty, seen.append])
    stream.emit(STARTED)
    stream.emit(STARTED)
    assert seen == [STARTED, events.ObserverFailed("a.1", object.__repr__(faulty), error), STARTED]


@pytest.mark.parametrize("repr_too", [False, True])
def test_keyboard_interrupt_in_an_observer_is_meant_for_the_program(repr_too: bool) -> None:
    class Interrupted:
        def __call__(self, event: Event, /) -> None:
            raise ValueError if repr_too else KeyboardInterrupt

        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EventStream([Interrupted()]).emit(STARTED)


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_failure_that_cannot_be_reported(monkeypatch: pytest.MonkeyPatch, stderr: str | None) -> None:
    """A daemon may have closed its stderr: the subscribers still get the event, and the node goes on."""

    class Faulty:
        def __call__(self, event: Event, /) -> None:
            raise ValueError("no")

        def __repr__(self) -> str:
            raise ValueError("not even a repr")

    with open("/dev/null", "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed if stderr else None)
    stream = EventStream([Faulty()])
    with stream.subscribe(10) as reader:
        stream.emit(STARTED)
        assert reader.receive_nowait() is STARTED
        assert isinstance(failed := reader.receive_nowait(), events.ObserverFailed)
    assert "Faulty object" in failed.observer


def test_log_that_fails_is_reported_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the log the other observers may say nothing, so a person would not notice."""

    class FaultyLog(LogObserver):
        def __call__(self, event: Event, /) -> None:
            raise ValueError("the log failed")

    seen: list[Event] = []
    EventStream([FaultyLog(logging.getLogger("metafora_trio.test")), seen.append]).emit(STARTED)
    assert "the log failed" in capsys.readouterr().err
    assert [type(event).__name__ for event in seen] == ["TaskStarted", "ObserverFailed"]


def test_equal_observers_are_removed_one_at_a_time() -> None:
    """It is the observer that raised that goes, not another that is equal to it."""

    class Equal:
        def __init__(self, *, fails: bool) -> None:
            self.fails = fails
            self.calls = 0

        def __call__(self, event: Event, /) -> None:
            self.calls += 1
            if self.fails:
                raise ValueError("no")

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    good, bad = Equal(fails=False), Equal(fails=True)
    stream = EventStream([good, bad])
    stream.emit(STARTED)
    stream.emit(STARTED)
    assert (good.calls, bad.calls) == (3, 1)


def test_async_observer_is_refused() -> None:
    """It would never be awaited."""

    async def observer(event: Event) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(TypeError, match="must be a plain function of one event"):
        Consumer(MemoryCoordinator(), run_for_ever, observers=[observer])  # type: ignore[list-item]


async def test_observers_from_a_generator(autojump_clock: MockClock) -> None:
    """All of them are used, however they are passed."""
    seen: list[Event] = []
    async with open_cluster() as cluster:
        await cluster.start("a", observers=(observer for observer in [seen.append]))
        assert [type(event).__name__ for event in seen] == ["SessionOpened"]
