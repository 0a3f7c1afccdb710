"""The judge of chaos runs counts each innocent task that was restarted for the sake of another, and no other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from metafora_trio.testing.history import EventName, HistoryEvent
from stress.chaos.check import Judgement, judge
from stress.chaos.faults import FaultKind
from stress.chaos.records import FaultRecord
from tests.support.chaos import event, evidence, fault, start, stop, submit

END = event(45, EventName.END)


def moved(reason: str, *, task: str = "a", ended: bool = False) -> list[HistoryEvent]:
    """Return a history in which n1 stops a task at 10 s, and n2 starts it."""
    return [
        *submit(task),
        start(1, task, 1, "n1.1"),
        stop(10, task, 1, "n1.1", reason=reason, ended=ended),
        start(11, task, 2, "n2.1"),
        END,
    ]


def killed() -> list[HistoryEvent]:
    """Return a history in which the process of n1 ends at 10 s, and n2 starts its task."""
    return [*submit("a"), start(1, "a", 1, "n1.1"), event(10, EventName.KILL, "n1.1"), start(11, "a", 2, "n2.1"), END]


def judged(events: Sequence[HistoryEvent], *faults: FaultRecord) -> Judgement:
    return judge(evidence(events, faults=faults, healed=5))


def test_a_handover_is_planned() -> None:
    judgement = judged(moved("handed_over"))

    assert [(restart.cause, restart.explained) for restart in judgement.restarts] == [("handover", True)]
    assert judgement.unexplained == []


@pytest.mark.parametrize(
    "reason,cause",
    [
        ("session_lost", fault(FaultKind.CUT, "n1", 5, 9)),
        ("session_lost", fault(FaultKind.BLOCKED, "n1", 5, 9)),
        ("session_lost", fault(FaultKind.PAUSE_SERVER, "s1 (leader)", 9, 12)),
        ("session_lost", fault(FaultKind.LOSE_QUORUM, "", 3, 4)),
        ("session_lost", fault(FaultKind.STALL, "", 8, 9)),
        ("claim_lost", fault(FaultKind.FREEZE, "n1", 5, 9)),
        ("released", fault(FaultKind.STOP, "", 9, 9)),
        ("released", fault(FaultKind.BALANCE, "", 9, 9)),
        ("drained", fault(FaultKind.DRAIN, "n1", 9, 12)),
        ("drained", fault(FaultKind.ROLL_NODES, "", 9, 12)),
        ("shutdown", fault(FaultKind.JOIN, "n6", 1, 12)),
        ("deleted", fault(FaultKind.DELETE, "", 9, 9)),
    ],
)
def test_a_restart_with_a_cause_of_its_own(reason: str, cause: FaultRecord) -> None:
    judgement = judged(moved(reason), cause)

    assert [(restart.cause, restart.explained) for restart in judgement.restarts] == [(cause.kind, True)]


@pytest.mark.parametrize(
    "reason,other",
    [
        ("session_lost", fault(FaultKind.GARBAGE, "", 1, 40)),  # the poison itself explains nothing
        ("session_lost", fault(FaultKind.LARGE, "", 1, 40)),
        ("session_lost", fault(FaultKind.CUT, "n2", 5, 9)),  # that of another node
        ("session_lost", fault(FaultKind.CUT, "n1", 1, 2)),  # long over
        ("session_lost", fault(FaultKind.CLOCK, "n1", 5, 9)),  # must not cost a session
        ("session_lost", fault(FaultKind.DRAIN, "n1", 5, 9)),
        ("claim_lost", fault(FaultKind.STOP, "", 9, 9)),
        ("released", fault(FaultKind.CUT, "n1", 5, 9)),
        ("drained", fault(FaultKind.STOP, "", 9, 9)),
        ("deleted", fault(FaultKind.STOP, "", 9, 9)),
        ("", fault(FaultKind.CUT, "n1", 5, 9)),
    ],
)
def test_a_restart_for_the_sake_of_another_task(reason: str, other: FaultRecord) -> None:
    judgement = judged(moved(reason), other)

    assert [(restart.cause, restart.explained) for restart in judgement.restarts] == [(reason or "no reason", False)]
    assert (
        "a stopped in n1.1 and ran again in n2.1, and nothing of its own explains it: " + (reason or "no reason")
    ) in judgement.violations


def test_a_skipped_fault_explains_nothing() -> None:
    skipped = fault(FaultKind.SLOW_DISK, "s1 (leader)", 8, 8)
    skipped.skipped = True

    assert len(judged(moved("session_lost"), skipped).unexplained) == 1


@pytest.mark.parametrize("kind", [FaultKind.KILL, FaultKind.CRASH_LOOP, FaultKind.BLOCKED])
def test_the_end_of_a_process_that_was_killed(kind: FaultKind) -> None:
    assert [restart.cause for restart in judged(killed(), fault(kind, "n1", 9.9, 12)).restarts] == [kind]


def test_the_end_of_a_process_that_poison_has_ended() -> None:
    (restart,) = judged(killed(), fault(FaultKind.RAISING, "", 1, 40), fault(FaultKind.KILL, "n2", 9, 12)).restarts

    assert (restart.cause, restart.explained) == ("process ended", False)


def test_poison_itself_is_not_innocent() -> None:
    assert judged(moved("session_lost", task="poison-deep-1")).restarts == []


def test_a_run_that_has_ended_is_not_restarted() -> None:
    """A handler that returns, and whose session ends before the task has, runs again."""
    assert judged(moved("", ended=True)).restarts == []


def test_a_task_that_has_ended_must_not_run_again_in_the_same_session() -> None:
    again = [
        *submit("a"),
        start(1, "a", 1, "n1.1"),
        stop(10, "a", 1, "n1.1", ended=True),
        start(11, "a", 1, "n1.1"),
        END,
    ]

    assert "a had ended in n1.1, and ran again in the same session" in judged(again).violations
    assert not any("in the same session" in text for text in judged(moved("", ended=True)).violations)


def test_handlers_that_ignore_cancellation_may_overlap() -> None:
    def overlap(task: str) -> list[HistoryEvent]:
        return [*submit(task), start(1, task, 1, "n1.1"), start(9, task, 2, "n2.1"), stop(10, task, 1, "n1.1"), END]

    assert len(judged(overlap("a")).verdict.overlaps) == 1
    assert len(judged(overlap("poison-deep-1")).verdict.overlaps) == 1
    assert judged(overlap("poison-stubborn-1")).verdict.overlaps == []


def test_gaps_beside_a_crash_loop() -> None:
    loop = fault(FaultKind.CRASH_LOOP, "n3", 9, 20)

    (gap,) = judged(killed(), loop).beside_crash_loop
    assert gap.seconds == 1
    assert judged(moved("handed_over"), loop).beside_crash_loop == []
    assert judged(killed(), fault(FaultKind.CRASH_LOOP, "n3", 11, 20)).beside_crash_loop == []


def test_the_gap_of_poison_after_a_lone_kill_is_not_bounded() -> None:
    """It may be far larger than an ordinary task, for example."""
    kill = fault(FaultKind.KILL, "n1", 10, 17, alone=True)
    events = [
        *submit("poison-large-1"),
        start(1, "poison-large-1", 1, "n1.1"),
        event(10, EventName.KILL, "n1.1"),
        start(20, "poison-large-1", 2, "n2.1"),
        END,
    ]

    assert judged(events, kill).isolated == []
