"""The judge of chaos runs finds every planted violation, and nothing in a correct run."""

from __future__ import annotations

import dataclasses

import pytest

from metafora_trio.testing.history import EventName

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from stress.chaos.check import Judgement, judge, percentile, settled_now
from stress.chaos.faults import FaultKind
from stress.chaos.records import FaultRecord
from stress.chaos.store import Row
from tests.support.chaos import CUT, GOOD, KILL, event, evidence, fault, start, stop, submit

WRITTEN = evidence().rows


def violation(judgement: Judgement) -> str:
    (only,) = judgement.violations
    return only


def test_a_correct_run_has_no_violations() -> None:
    judgement = judge(evidence())

    assert judgement.violations == []
    assert [round(gap.seconds, 2) for gap in judgement.gaps] == [4.9, 0.01]
    assert judgement.gaps[0].cause is KILL
    assert [round(gap.seconds, 2) for gap in judgement.isolated] == [4.9]
    assert judgement.settled == pytest.approx(3.01)
    assert (judgement.gap_limit, judgement.settle_limit) == (5.2, 13.5)


@pytest.mark.parametrize("burst", [FaultKind.SUBMIT, FaultKind.DELETE, FaultKind.BALANCE])
def test_a_user_command_is_no_cause_beside_a_fault(burst: FaultKind) -> None:
    """If a paused leader costs every task its lease, a delete at the same time is not the cause."""
    pause, moves = fault(FaultKind.PAUSE_SERVER, "s3 (leader)", 17, 24), fault(burst, "", 19, 19.1)
    events = [*submit("b"), start(1, "b", 1, "n2.1"), stop(19.5, "b", 1, "n2.1"), start(24.9, "b", 2, "n1.1"), GOOD[-1]]

    assert [gap.cause for gap in judge(evidence(events, faults=(pause, moves))).gaps] == [pause]
    assert [gap.cause for gap in judge(evidence(events, faults=(moves,))).gaps] == [moves]


def test_settled_at_the_heal_already() -> None:
    assert judge(evidence([*submit("a"), start(1, "a", 1, "n1.1"), event(45, EventName.END)])).settled == 0


def test_a_lone_kill_that_shows_nothing() -> None:
    """The killed node had no task, for example."""
    judgement = judge(evidence([*submit("a"), start(1, "a", 1, "n1.1"), event(45, EventName.END)]))

    assert (judgement.word, judgement.notes) == ("ok", ["no gap was measured after n2 alone was killed"])


def test_an_overlap() -> None:
    events = [*GOOD[:-2], start(29.9, "b", 3, "n2.2"), GOOD[-1]]

    assert "overlap of 100.0 ms: b ran in n1.1 (token 2) and in n2.2 (token 3)" in judge(evidence(events)).violations


def test_an_overlap_in_a_frozen_window_does_not_count() -> None:
    frozen = [event(15, EventName.FREEZE, "n2.1"), event(22, EventName.THAW, "n2.1")]
    frozen.append(stop(22.04, "b", 1, "n2.1", reason="session_lost"))
    events = [GOOD[0], GOOD[1], GOOD[2], GOOD[3], *frozen, start(19.5, "b", 2, "n1.1"), *GOOD[6:]]

    assert judge(evidence(events, faults=[CUT])).violations == []


def test_a_process_that_does_not_record_its_thaw() -> None:
    frozen = [event(35, EventName.FREEZE, "n1.1"), event(40, EventName.RESUME, "n1.1")]

    assert (
        violation(judge(evidence([*GOOD, *frozen])))
        == "n1.1 was sent SIGCONT after a freeze, but did not record its thaw"
    )
    assert judge(evidence([*GOOD, *frozen, event(40.01, EventName.THAW, "n1.1")])).violations == []


def test_a_token_that_does_not_grow() -> None:
    events = [dataclasses.replace(one, token=1) if one.token == 2 else one for one in GOOD]

    assert violation(judge(evidence(events))) == "token 1 of b in n1.1 is not above 1 in n2.1"


def test_a_task_that_runs_again_after_it_was_done() -> None:
    events = [
        *GOOD[:-1],
        *submit("c"),
        start(2, "c", 1, "n1.1"),
        stop(3, "c", 1, "n1.1"),
        event(4, EventName.DONE, task="c"),
    ]
    again = [start(5, "c", 2, "n1.1"), stop(6, "c", 2, "n1.1"), GOOD[-1]]

    assert violation(judge(evidence([*events, *again]))) == "c was done, and started again in n1.1"


@pytest.mark.parametrize("last", [3.5, 40, None])
def test_a_task_that_runs_again_before_the_client_has_seen_it_done(last: float | None) -> None:
    """It is found whether the second run has ended by then, runs on, or still runs at the end."""
    ended = [
        *submit("c"),
        start(2, "c", 1, "n1.1"),
        stop(2.5, "c", 1, "n1.1", ended=True),
        event(4, EventName.DONE, task="c"),
    ]
    again = [start(2.6, "c", 2, "n2.1"), *([stop(last, "c", 2, "n2.1")] if last else [])]
    events = [one for one in GOOD if one.ev is not EventName.KILL]  # the kill would end the second run too

    assert "c was done, and started again in n2.1" in judge(evidence([*events, *ended, *again])).violations


def test_a_task_that_still_runs_when_it_is_done() -> None:
    events = [*submit("c"), start(2, "c", 1, "n1.1"), event(4, EventName.DONE, task="c"), stop(4.1, "c", 1, "n1.1")]

    assert violation(judge(evidence([*GOOD, *events]))) == "c was done, and still ran in n1.1"


def test_a_lost_task() -> None:
    found = judge(evidence([*submit("c"), *GOOD])).violations

    assert found == [
        "c is lost: acknowledged, neither running at the end, nor done, nor deleted",
        "not all tasks ran, evenly spread, when the observation ended",
    ]


def test_a_deleted_task_that_runs_on() -> None:
    assert violation(judge(evidence([event(10, EventName.DELETE, task="a"), *GOOD]))) == "a was deleted and still runs"


@pytest.mark.parametrize(
    "begin,found",
    [(7.49, []), (7.51, ["c started in n1.1 4.51 s after it was deleted, not within 4.50 s"])],
)
def test_a_deleted_task_that_starts_again(begin: float, found: list[str]) -> None:
    """It may start while a node has not seen its tombstone, but not for longer than the session timeout and a tick."""
    events = [*submit("c"), event(3, EventName.DELETE, task="c"), start(begin, "c", 1, "n1.1"), stop(8, "c", 1, "n1.1")]

    assert judge(evidence([*GOOD, *events])).violations == found


@pytest.mark.parametrize("end,found", [(16.4, []), (16.6, ["c still ran in n1.1 13.6 s after it was deleted"])])
def test_a_deleted_task_that_takes_long_to_stop(end: float, found: list[str]) -> None:
    events = [*submit("c"), start(2, "c", 1, "n1.1"), event(3, EventName.DELETE, task="c"), stop(end, "c", 1, "n1.1")]

    assert judge(evidence([*GOOD, *events])).violations == found


def test_a_gap_that_is_too_long_after_a_lone_kill() -> None:
    events = [start(25.3, "b", 2, "n1.1") if one.token == 2 and one.ev is EventName.START else one for one in GOOD]

    assert violation(judge(evidence(events))) == "b ran again 5.30 s after n2.1 alone was killed, not within 5.20 s"


@pytest.mark.parametrize(
    "other,isolated",
    [
        (fault(FaultKind.CUT, "n1", 24, 30), 0),
        (fault(FaultKind.SLOW_DISK, "s1 (leader)", 5, 14), 0),
        (fault(FaultKind.SLOW_DISK, "s1 (leader)", 5, 12), 1),
        (fault(FaultKind.CUT, "n1", 26, 30), 1),
        (fault(FaultKind.SUBMIT, "", 21, 21), 1),
    ],
)
def test_a_gap_is_bounded_only_if_nothing_else_was_wrong(other: FaultRecord, isolated: int) -> None:
    assert len(judge(evidence(faults=[other, KILL])).isolated) == isolated


def test_everything_runs_but_too_late() -> None:
    events = [*GOOD[:-2], start(41.51, "b", 3, "n2.2"), event(55, EventName.END)]

    assert violation(judge(evidence(events))) == "all ran, evenly spread, 14.5 s after the heal, not within 13.5 s"


def test_everything_runs_but_not_evenly_spread() -> None:
    events = [*submit("a", "b"), start(1, "a", 1, "n1.1"), start(1, "b", 1, "n1.1"), event(45, EventName.END)]

    assert violation(judge(evidence(events))) == "not all tasks ran, evenly spread, when the observation ended"


def test_an_old_token_that_the_store_took() -> None:
    rows = [*WRITTEN, Row(1, "a", "n1.1", 1, True), Row(2, "a", "n2.1", 2, True), Row(3, "a", "n1.1", 1, True)]

    judgement = judge(evidence(rows=rows))

    assert violation(judgement) == "the store took a write of a with the old token 1 from n1.1"
    assert (judgement.old_accepted, judgement.old_rejected) == (rows[-1:], [])


def test_an_old_token_that_the_store_refused_is_counted() -> None:
    rows = [*WRITTEN, Row(1, "a", "n1.1", 1, True), Row(2, "a", "n2.1", 2, True), Row(3, "a", "n1.1", 1, False)]

    judgement = judge(evidence(rows=rows))

    assert (judgement.violations, judgement.old_rejected) == ([], rows[-1:])


def test_a_surprise() -> None:
    assert violation(judge(evidence(surprises=["n1.1 has ended by itself"]))) == "n1.1 has ended by itself"


def test_the_end_of_an_interrupted_run_is_not_judged() -> None:
    for healed, complete in ((None, False), (27, False), (None, True)):
        judgement = judge(evidence([*submit("c"), *GOOD], healed=healed, complete=complete))

        assert (judgement.violations, judgement.lost, judgement.word) == ([], [], "interrupted")


def test_an_interrupted_run_can_break_a_promise() -> None:
    events = [*GOOD[:-2], start(29.9, "b", 3, "n2.2")]

    assert judge(evidence(events, healed=None, complete=False)).word == "violated"


def test_an_interrupted_run_may_have_left_nothing() -> None:
    judgement = judge(evidence([], faults=[], healed=None, complete=False))

    assert (judgement.violations, judgement.word) == ([], "interrupted")


def test_missing_evidence_is_a_violation() -> None:
    judgement = judge(evidence([], faults=[]))

    assert judgement.word == "violated"
    assert [text for text in judgement.violations if "no evidence" in text] == [
        "no evidence: the history has no end",
        "no evidence: not one run of a task is recorded",
        "no evidence: not one fault is recorded",
        "no evidence: not one write is recorded",
    ]


def test_a_run_that_has_not_written_to_the_store() -> None:
    """Such a run is no evidence of fencing."""
    rows = [row for row in WRITTEN if row.token != 2]  # its run lasts 5.1 s

    assert (
        violation(judge(evidence(rows=rows)))
        == "no evidence: b ran for 5.1 s in n1.1, and has not written to the store"
    )
    # A frozen process may hold the lock of the store for that time.
    frozen = [event(26, EventName.FREEZE, "n3.1"), event(27, EventName.THAW, "n3.1")]
    assert judge(evidence([*GOOD, *frozen], rows=rows)).violations == []


@pytest.mark.parametrize("other,calm", [([], True), ([fault(FaultKind.CUT, "n1", 34, 35)], False)])
def test_a_node_that_is_drained_and_does_not_leave(other: list[FaultRecord], calm: bool) -> None:
    late = "n2 had not left 8 s after it was told to (roll nodes), with nothing else wrong"
    roll = dataclasses.replace(fault(FaultKind.ROLL_NODES, "", 36, 44), late=["n2"])
    judgement = judge(evidence(faults=[KILL, *other, roll]))

    assert judgement.violations == [late] * calm
    assert judgement.notes == [late.replace("with nothing else wrong", "under other faults")] * (not calm)


@pytest.mark.parametrize(
    "running,settled",
    [
        ({"n1.1": {"a", "b"}, "n2.3": {"c"}}, True),
        ({"n1.1": {"a", "b"}, "n2.3": set()}, False),
        ({"n1.1": {"a", "b", "c"}, "n2.3": {"d"}}, False),
        ({"n1.1": {"a", "b", "c"}}, False),
        ({"n1.1": {"a", "b"}, "n2.3": {"c"}, "n3.1": {"x", "y"}}, True),
    ],
)
def test_settled(running: dict[str, set[str]], settled: bool) -> None:
    assert settled_now(running, {"a", "b", "c"}, ("n1", "n2")) == settled


def test_percentile() -> None:
    assert [percentile([4, 1, 3, 2], fraction) for fraction in (0.25, 0.5, 0.99, 1)] == [1, 2, 4, 4]
    assert percentile([], 0.5) == 0
