"""Events: everything a consumer does, for observers, for subscribers and for the log."""

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


def stream() -> EventStream:
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
    (events.BalancerFailed("a.1", "steal", ValueError("no")), logging.ERROR),
    (events.ObserverFailed("a.1", "<function>", ValueError("no")), logging.ERROR),
    (events.CommandDone("a.1", "freeze"), logging.INFO),
    (events.CommandRejected("a.1", "dance", "it is unknown"), logging.WARNING),
]


def test_every_event_is_listed() -> None:
    """The module of the public names has every event there is, and this test knows its level."""
    public = {name for name, value in vars(events).items() if isinstance(value, type) and issubclass(value, Event)}
    assert {type(event).__name__ for event, _ in LEVELS} == public - {"Event"}
    assert public - {"Event"} == {event.__name__ for event in Event.__subclasses__()}


@pytest.mark.parametrize("event, level", LEVELS, ids=lambda value: type(value).__name__)
def test_log(event: Event, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each event is one record, with the event attached, and a traceback where there is an error."""
    with caplog.at_level(logging.DEBUG):
        stream().emit(event)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, str(event))
    assert getattr(record, "event", None) is event
    has_error = isinstance(getattr(event, "error", None), BaseException)
    assert (record.exc_info is not None) == (has_error and level == logging.ERROR)


def test_what_is_not_logged_is_not_formatted(caplog: pytest.LogCaptureFixture) -> None:
    """Ordinary events cost nothing where nobody wants to know."""
    with caplog.at_level(logging.INFO):
        stream().emit(STARTED)
    assert caplog.records == []


def test_subscribers() -> None:
    """Every subscriber gets each event in order, from when it subscribed until it stops."""
    told = stream()
    with told.subscribe(10) as first:
        told.emit(LEVELS[0][0])
        with told.subscribe(10) as second:
            told.emit(STARTED)
        told.emit(LEVELS[1][0])
        assert [first.receive_nowait() for _ in range(3)] == [LEVELS[0][0], STARTED, LEVELS[1][0]]
        with pytest.raises(trio.ClosedResourceError):
            second.receive_nowait()
    told.emit(STARTED)
    assert told.dropped == 0


def test_slow_subscriber() -> None:
    """Who lags more than its buffer loses events, which are counted; the others do not."""
    told = stream()
    with told.subscribe(2) as slow, told.subscribe(10) as quick:
        for event, _ in LEVELS[:5]:
            told.emit(event)
        assert [slow.receive_nowait(), slow.receive_nowait()] == [event for event, _ in LEVELS[:2]]
        assert [quick.receive_nowait() for _ in range(5)] == [event for event, _ in LEVELS[:5]]
    assert told.dropped == 3


def test_subscriber_that_closes_its_end() -> None:
    """A reader may close its channel before it leaves the context."""
    told = stream()
    with told.subscribe(2) as events_:
        events_.close()
        told.emit(STARTED)
    assert told.dropped == 0


def test_events_are_values() -> None:
    """Events are compared by what they say, and nobody can change one."""
    assert events.TaskStarted("a.1", "t", 7) == STARTED
    with pytest.raises(dataclasses.FrozenInstanceError):
        STARTED.token = 8  # type: ignore[misc]


def test_observers_miss_nothing() -> None:
    """Every observer has every event when `emit` returns, however many there are."""
    first: list[Event] = []
    second: list[Event] = []
    told = EventStream([first.append, second.append])
    for event, _ in LEVELS:
        told.emit(event)
        assert first[-1] is event
    assert first == second == [event for event, _ in LEVELS]


def test_observer_that_raises_is_removed_and_reported() -> None:
    """Its error costs nobody else an event, and it is not called again."""
    calls: list[Event] = []
    seen: list[Event] = []
    error = ValueError("no")

    def faulty(event: Event) -> None:
        calls.append(event)
        raise error

    told = EventStream([faulty, seen.append])
    with told.subscribe(10) as reader:
        told.emit(STARTED)
        told.emit(STARTED)
        failed = events.ObserverFailed("a.1", repr(faulty), error)
        assert [reader.receive_nowait() for _ in range(3)] == [STARTED, failed, STARTED]
    assert calls == [STARTED]
    assert seen == [STARTED, failed, STARTED]


def test_last_observer_that_raises_is_reported_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no observer is left to be told, the traceback is not lost."""

    def faulty(event: Event) -> None:
        raise ValueError("nobody is left to hear this")

    EventStream([faulty]).emit(STARTED)
    assert "nobody is left to hear this" in capsys.readouterr().err


def test_what_an_observer_causes_comes_after() -> None:
    """An observer may make the consumer do something: everyone sees the effect after the cause."""
    first: list[Event] = []
    last: list[Event] = []

    def freezes(event: Event) -> None:
        if event is STARTED:
            told.emit(LEVELS[0][0])

    told = EventStream([first.append, freezes, last.append])
    told.emit(STARTED)
    assert first == last == [STARTED, LEVELS[0][0]]


async def test_faulty_observer_costs_the_node_nothing(autojump_clock: MockClock) -> None:
    """Neither a task nor the session, even if it is a handler of the log: the observers that are left are told."""

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
            await cluster.submit("t")
            await cluster.wait_running("t")
            assert a.consumer.statistics().sessions == 1
    finally:
        logger.removeHandler(handler)
    failed = [event for event in seen if isinstance(event, events.ObserverFailed)]
    assert [type(event.error) for event in failed] == [LookupError, RuntimeError]  # the log failed at the report


def test_an_observer_is_a_function() -> None:
    """Anything else is refused at once, and named."""
    with pytest.raises(TypeError, match="an observer must be a plain function of one event, not 7"):
        Consumer(MemoryCoordinator(), run_for_ever, observers=[7])  # type: ignore[list-item]


async def test_subscriber_of_a_consumer(autojump_clock: MockClock) -> None:
    """The stream can be iterated as the consumer works; who subscribes late gets what comes later."""
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
    """`statistics()` tells how many events slow subscribers have lost."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        with a.consumer.subscribe(buffer=1):
            await cluster.submit("t")
            await cluster.wait_running("t")
        assert a.consumer.statistics().events_dropped == 1
