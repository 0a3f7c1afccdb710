"""EventOrder accepts the events that a consumer may report, in any legal order, and names those out of order."""

from __future__ import annotations

import pytest

from metafora_trio import StateName, StopReason
from metafora_trio.events import (
    Event,
    LeaseAtRisk,
    SessionEnded,
    SessionOpened,
    TaskClaimed,
    TaskEnded,
    TaskGivenUp,
    TaskOverran,
    TaskStarted,
    TaskStopFailed,
    TaskStopped,
    TaskStopping,
)
from metafora_trio.testing.history import EventOrder

N = "n1.a"
OPENED, LOST = SessionOpened(N, 4.0), SessionEnded(N, "the session is lost")
CLAIMED, STARTED = TaskClaimed(N, "t", 3), TaskStarted(N, "t", 3)
STOPPING = TaskStopping(N, "t", 3, StopReason.HANDED_OVER, "n2.b")
STOPPED = TaskStopped(N, "t", 3, StopReason.HANDED_OVER)
ENDED, GIVEN_UP = TaskEnded(N, "t", 3, StateName.COMPLETED), TaskGivenUp(N, "t", 3, "n2.b")
OVERRAN, STOP_FAILED = TaskOverran(N, "t", 3, 0.2), TaskStopFailed(N, "t", 3, ValueError())


def problems(*events: Event) -> list[str]:
    order = EventOrder()
    return [problem for event in events if (problem := order.add(event))]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([CLAIMED, STARTED, STOPPED, ENDED], id="completed"),
        pytest.param([CLAIMED, STARTED, STOPPING, STOPPED, GIVEN_UP], id="handed over"),
        pytest.param([CLAIMED, STARTED, STOPPING, STOPPING, STOPPED, STOP_FAILED, OVERRAN, GIVEN_UP], id="stops badly"),
        pytest.param([CLAIMED, CLAIMED, STARTED, STOPPED, ENDED, ENDED], id="claimed and ended again after a break"),
        pytest.param([CLAIMED, STARTED, STOPPED, CLAIMED, STARTED], id="its heir went: it starts again"),
        pytest.param([CLAIMED, STARTED, STOPPED, GIVEN_UP, CLAIMED, STARTED], id="the handover failed"),
        pytest.param([CLAIMED, ENDED], id="it cannot be read"),
        pytest.param([ENDED], id="deleted before it ran"),
        pytest.param([GIVEN_UP, CLAIMED, STARTED, STOPPED], id="gone when claimed, then submitted again"),
        pytest.param([CLAIMED, STARTED, LOST, STOPPED, OVERRAN, GIVEN_UP], id="it closes after the session"),
        pytest.param(
            [CLAIMED, STARTED, STOPPED, GIVEN_UP, TaskClaimed(N, "t", 5), TaskStarted(N, "t", 5)], id="claimed again"
        ),
        pytest.param([LeaseAtRisk(N, 1.0), LOST], id="other events have no order"),
    ],
)
def test_a_legal_order(events: list[Event]) -> None:
    assert problems(OPENED, *events) == []


WHAT = "of t on n1.a with token 3"


@pytest.mark.parametrize(
    "events, problem",
    [
        ([STARTED], f"TaskStarted {WHAT} when nothing was reported"),
        ([CLAIMED, STARTED, STARTED], f"TaskStarted {WHAT} when it had started"),
        ([CLAIMED, STARTED, CLAIMED], f"TaskClaimed {WHAT} when it had started"),
        ([CLAIMED, STOPPING], f"TaskStopping {WHAT} when it was claimed"),
        ([CLAIMED, STOPPED], f"TaskStopped {WHAT} when it was claimed"),
        ([CLAIMED, STARTED, STOPPED, STOPPED], f"TaskStopped {WHAT} when it had stopped"),
        ([CLAIMED, STARTED, OVERRAN], f"TaskOverran {WHAT} when it had started"),
        ([CLAIMED, STARTED, STOPPING, STOP_FAILED], f"TaskStopFailed {WHAT} when it was stopping"),
        ([CLAIMED, STARTED, ENDED], f"TaskEnded {WHAT} when it had started"),
        ([CLAIMED, STARTED, STOPPING, GIVEN_UP], f"TaskGivenUp {WHAT} when it was stopping"),
        ([CLAIMED, STARTED, STOPPED, ENDED, CLAIMED], f"TaskClaimed {WHAT} when it had ended"),
        ([TaskClaimed(N, "t", 4), CLAIMED], f"TaskClaimed {WHAT} after token 4"),
        ([LOST, CLAIMED], f"TaskClaimed {WHAT} outside its session"),
        ([CLAIMED, LOST, STARTED], f"TaskStarted {WHAT} outside its session"),
        ([CLAIMED, STARTED, LOST, STOPPED, ENDED], f"TaskEnded {WHAT} outside its session"),
        ([OPENED], "n1.a opened its session twice"),
        ([LOST, LOST], "n1.a ended a session that was not open"),
    ],
)
def test_an_illegal_order_is_named(events: list[Event], problem: str) -> None:
    assert problems(OPENED, *events) == [problem]
