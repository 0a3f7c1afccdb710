"""Events: a consumer reports everything that it does to observers, subscribers and the log."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Consumer, MemoryCoordinator, StateName, StopReason, events
from metafora_trio._node.event_stream import EventStream
from metafora_trio._node.log_observer import LogObserver
from metafora_trio.events import Event
from tests.support.nodes import open_cluster, run_for_ever


def logged_stream() -> EventStream:
    return EventStream([LogObserver(logging.getLogger("metafora_trio.test"))])


STARTED = events.TaskStarted("a.1", "t", 7)
LEVELS: list[tuple[Event, int]] = [
    (events.SessionOpened("a.1", 10.0), logging.INFO),
    (events.SessionEnded("a.1", ""), logging.INFO),
    (events.SessionEnded("a.1", "lost"), logging.WARNING),
    (events.JoinFailed("a", OSError("no"), 0.2), logging.WARNING),
    (events.LeaseAtRisk("a.1", 2.5), logging.WARNING),
    (events.TaskClaimed("a.1", "t", 7), logging.DEBUG),
    (STARTED, logging.DEBUG),
    (events.TaskStopping("a.1", "t", 7, StopReason.HANDED_OVER, "b.2"), logging.DEBUG),
    (events.TaskStopped("a.1", "t", 7, None), logging.DEBUG),
    (events.TaskEnded("a.1", "t", 7, StateName.COMPLETED), logging.DEBUG),
    (events.TaskEnded("a.1", "t", 7, StateName.FAILED, "ValueError: no"), logging.WARNING),
    (events.TaskGivenUp("a.1", "t", 7, "b.2"), logging.DEBUG),
    (events.TaskStopFailed("a.1", "t", 7, ValueError("no")), logging.ERROR),
    (events.TaskOverran("a.1", "t", 7, 0.5), logging.ERROR),
    (events.TaskStuck("a.1", "t", 7, "metafora task t:\n  ..."), logging.CRITICAL),
    (events.TaskQuarantined("a.1", "t", "task t is left alone for a while"), logging.WARNING),
    (events.NodeSuspended("a.1", 3, 5.0), logging.ERROR),
    (events.NodeResumed("a.1"), logging.INFO),
    (events.OwnerMissing("a.1", "b.2", ("t",)), logging.WARNING),
    (events.BalancerFailed("a.1", "steal", ValueError("no")), logging.ERROR),
    (events.ObserverFailed("a.1", "<function>", ValueError("no")), logging.ERROR),
    (events.CommandDone("a.1", "freeze"), logging.INFO),
    (events.CommandRejected("a.1", "dance", "it is unknown"), logging.WARNING),
]


def test_every_event_is_listed() -> None:
    """Every event is public in `metafora_trio.events` and has a log level in this test."""
    public = {name for name, value in vars(events).items() if isinstance(value, type) and issubclass(value, Event)}
    assert {type(event).__name__ for event, _ in LEVELS} == public - {"Event"}
    assert public - {"Event"} == {event.__name__ for event in Event.__subclasses__()}


@pytest.mark.parametrize("event, level", LEVELS, ids=lambda value: type(value).__name__)
def test_log(event: Event, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each event is logged as one record, with the event attached, and with a traceback if it is logged as an error."""
    with caplog.at_level(logging.DEBUG):
        logged_stream().emit(event)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, str(event))
    assert getattr(record, "event", None) is event
    has_error = isinstance(getattr(event, "error", None), BaseException)
    assert (record.exc_info is not None) == (has_error and level == logging.ERROR)


def test_log_respects_the_level(caplog: pytest.LogCaptureFixture) -> None:
    """An event below the level of the logger makes no record."""
    with caplog.at_level(logging.INFO):
        logged_stream().emit(STARTED)
    assert caplog.records == []


def test_subscribers() -> None:
    """Every subscriber receives the events in order, from the time it subscribes until it leaves the context."""
    stream = logged_stream()
    with stream.subscribe(10) as first:
        stream.emit(LEVELS[0][0])
        with stream.subscribe(10) as second:
            stream.emit(STARTED)
        stream.emit(LEVELS[1][0])
        assert [first.receive_nowait() for _ in range(3)] == [LEVELS[0][0], STARTED, LEVELS[1][0]]
        with pytest.raises(trio.ClosedResourceError):
            second.receive_nowait()
    stream.emit(STARTED)
    assert stream.dropped == 0


def test_slow_subscriber() -> None:
    """A subscriber that lags by more than its buffer loses events, which are counted. Other subscribers lose none."""
    stream = logged_stream()
    with stream.subscribe(2) as slow, stream.subscribe(10) as quick:
        for event, _ in LEVELS[:5]:
            stream.emit(event)
        assert [slow.receive_nowait(), slow.receive_nowait()] == [event for event, _ in LEVELS[:2]]
        assert [quick.receive_nowait() for _ in range(5)] == [event for event, _ in LEVELS[:5]]
    assert stream.dropped == 3


def test_subscriber_that_closes_its_end() -> None:
    """A subscriber may close its channel before it leaves the context. No event is counted as dropped."""
    stream = logged_stream()
    with stream.subscribe(2) as events_:
        events_.close()
        stream.emit(STARTED)
    assert stream.dropped == 0


def test_events_are_values() -> None:
    """Events compare by value and are frozen."""
    assert events.TaskStarted("a.1", "t", 7) == STARTED
    with pytest.raises(dataclasses.FrozenInstanceError):
        STARTED.token = 8  # type: ignore[misc]


def test_observers_miss_nothing() -> None:
    """When `emit` returns, every observer has received the event. An observer has no buffer that could overflow."""
    first: list[Event] = []
    second: list[Event] = []
    stream = EventStream([first.append, second.append])
    for event, _ in LEVELS:
        stream.emit(event)
        assert first[-1] is event
    assert first == second == [event for event, _ in LEVELS]


def test_observer_that_raises_is_removed_and_reported() -> None:
    """An observer that raises is not called again, and the other observers still receive every event."""
    calls: list[Event] = []
    seen: list[Event] = []
    error = ValueError("no")

    def faulty(event: Event) -> None:
        calls.append(event)
        raise error

    stream = EventStream([faulty, seen.append])
    with stream.subscribe(10) as reader:
        stream.emit(STARTED)
        stream.emit(STARTED)
        failed = events.ObserverFailed("a.1", repr(faulty), error)
        assert [reader.receive_nowait() for _ in range(3)] == [STARTED, failed, STARTED]
    assert calls == [STARTED]
    assert seen == [STARTED, failed, STARTED]


def test_last_observer_that_raises_is_reported_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """If no observer is left to report to, the traceback is printed instead."""

    def faulty(event: Event) -> None:
        raise ValueError("no observer is left")

    EventStream([faulty]).emit(STARTED)
    assert "no observer is left" in capsys.readouterr().err


def test_event_caused_by_an_observer_comes_after_its_cause() -> None:
    """If an observer causes another event, all observers receive the cause first."""
    first: list[Event] = []
    last: list[Event] = []

    def freezes(event: Event) -> None:
        if event is STARTED:
            stream.emit(LEVELS[0][0])

    stream = EventStream([first.append, freezes, last.append])
    stream.emit(STARTED)
    assert first == last == [STARTED, LEVELS[0][0]]


async def test_faulty_observer_does_not_harm_the_node(autojump_clock: MockClock) -> None:
    """An observer that raises, even because a log handler does, ends no task and no session, and is reported."""

    class Faulty(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("a log handler that fails")

    def faulty(event: Event) -> None:
        raise LookupError("no such metric")

    handler = Faulty()
    logger = logging.getLogger("metafora_trio.consumer")
    logger.addHandler(handler)
    try:
        async with open_cluster() as cluster:
            seen: list[Event] = []
            a = await cluster.start("a", observers=[faulty, seen.append])
            await cluster.submit_until_running("t")
            assert a.consumer.statistics().sessions == 1
    finally:
        logger.removeHandler(handler)
    failed = [event for event in seen if isinstance(event, events.ObserverFailed)]
    assert [type(event.error) for event in failed] == [LookupError, RuntimeError]  # logging the first one failed


def test_observer_must_be_callable() -> None:
    """An observer that cannot be called is refused at once, and the message names it."""
    with pytest.raises(TypeError, match="an observer must be a plain function of one event, not 7"):
        Consumer(MemoryCoordinator(), run_for_ever, observers=[7])  # type: ignore[list-item]


async def test_subscriber_of_a_consumer(autojump_clock: MockClock) -> None:
    """A subscriber may iterate over the events while the consumer runs. It receives those after its subscription."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit("t")
        names: list[str] = []
        with a.consumer.subscribe() as stream, trio.move_on_after(20):
            async for event in stream:
                names.append(type(event).__name__)
                if isinstance(event, events.TaskStarted):
                    await cluster.client.delete("t")
        assert names == ["TaskClaimed", "TaskStarted", "TaskStopping", "TaskStopped", "TaskEnded"]


async def test_dropped_events_are_counted(autojump_clock: MockClock) -> None:
    """`statistics()` counts the events that slow subscribers have lost."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        with a.consumer.subscribe(buffer=1):
            await cluster.submit_until_running("t")
        assert a.consumer.statistics().events_dropped == 1
