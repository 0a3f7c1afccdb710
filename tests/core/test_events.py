"""Events: one stream of what a consumer does, for subscribers and for the log."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import StateName, StopReason, events
from metafora_trio._node.event_stream import EventStream
from metafora_trio.events import Event
from tests.support.nodes import open_cluster


def stream() -> EventStream:
    return EventStream(logging.getLogger("metafora_trio.test"))


STARTED = events.TaskStarted("a.1", "t", 7)
LEVELS: list[tuple[Event, int]] = [
    (events.SessionOpened("a.1", 10.0), logging.INFO),
    (events.SessionEnded("a.1", ""), logging.INFO),
    (events.SessionEnded("a.1", "lost"), logging.WARNING),
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
    assert (record.exc_info is not None) == isinstance(getattr(event, "error", None), BaseException)


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
