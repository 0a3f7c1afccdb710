"""The history checker finds every planted violation, and nothing in a correct history."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio.testing.history import EventName, History, HistoryEvent, Verdict, check_history
from metafora_trio.testing.history._verdict import AFTER_RESUME

MS = 1_000_000


def start(t: int, token: int, process: str = "p1", task: str = "t") -> HistoryEvent:
    return HistoryEvent(t, EventName.START, process, f"n.{process}", task, token)


def stop(t: int, token: int, process: str = "p1", task: str = "t", *, ended: bool = False) -> HistoryEvent:
    return HistoryEvent(t, EventName.STOP, process, f"n.{process}", task, token, ended)


def mark(t: int, ev: EventName, task: str = "t") -> HistoryEvent:
    return HistoryEvent(t, ev, task=task)


def fault(t: int, ev: EventName, process: str) -> HistoryEvent:
    return HistoryEvent(t, ev, process)


def test_a_good_history() -> None:
    verdict = check_history(
        [
            mark(0, EventName.SUBMIT),
            *(start(10 * MS, 1), stop(20 * MS, 1)),
            *(start(20 * MS, 2, "p2"), fault(30 * MS, EventName.KILL, "p2")),  # killed: it writes no stop
            *(start(50 * MS, 3), stop(60 * MS, 3), mark(61 * MS, EventName.DONE)),
            *(mark(70 * MS, EventName.SUBMIT), start(90 * MS, 4)),
        ]
    )
    assert (verdict.ok, verdict.runs, verdict.duplicate_runs, verdict.tasks_lost) == (True, 4, 0, 0)
    assert verdict.gaps == [0.0, 0.02]
    assert verdict.overlap_seconds == 0


def test_an_empty_history() -> None:
    verdict = check_history([])
    assert (verdict.ok, verdict.runs, verdict.gap(1), verdict.overlap_seconds) == (True, 0, 0.0, 0)


def test_overlap_of_a_nanosecond() -> None:
    verdict = check_history([start(0, 1), start(9, 2, "p2"), stop(10, 1), stop(20, 2, "p2")])
    assert [overlap.ns for overlap in verdict.overlaps] == [1]
    assert (verdict.ok, verdict.duplicate_runs, verdict.overlap_seconds) == (False, 1, 1e-9)
    assert verdict.gaps == []


def test_touching_runs_do_not_overlap() -> None:
    verdict = check_history([start(0, 1), start(10, 2, "p2"), stop(10, 1), stop(20, 2, "p2")])
    assert (verdict.ok, verdict.gaps) == (True, [0.0])


def test_one_run_within_another() -> None:
    """A long run is compared with every later run, not only with the next."""
    events = [start(0, 1), start(10, 2, "p2"), stop(20, 2, "p2"), start(30, 3, "p3"), stop(40, 3, "p3"), stop(99, 1)]
    verdict = check_history(events)
    assert [(overlap.first.token, overlap.second.token, overlap.ns) for overlap in verdict.overlaps] == [
        (1, 2, 10),
        (1, 3, 10),
    ]


def test_runs_of_two_tasks_may_overlap() -> None:
    assert check_history([start(0, 1), start(5, 2, task="u"), stop(10, 1), stop(12, 2, task="u")]).ok


def test_a_missing_stop_lasts_until_the_end() -> None:
    verdict = check_history([start(0, 1), start(10, 2, "p2"), stop(30, 2, "p2")])
    assert [overlap.ns for overlap in verdict.overlaps] == [20]


def test_a_dead_process_runs_nothing() -> None:
    events = [start(0, 1), start(1, 1, task="u"), fault(10, EventName.KILL, "p1"), start(10, 2, "p2")]
    assert check_history(events).ok
    assert not check_history([*events, stop(12, 1)]).ok  # a dead process writes no stop


@pytest.mark.parametrize("token, process", [(5, "p2"), (4, "p2"), (4, "p1")])
def test_tokens_out_of_order(token: int, process: str) -> None:
    verdict = check_history([start(0, 5), stop(1, 5), start(2, token, process), stop(3, token, process)])
    assert [(before.token, after.token) for before, after in verdict.tokens_out_of_order] == [(5, token)]
    assert not verdict.ok


def test_a_session_may_restart_under_the_same_claim() -> None:
    """If a handover fails because the heir has gone, the owner restarts the task under its old claim."""
    verdict = check_history([start(0, 5), stop(1, 5), start(2 * MS + 1, 5), stop(3 * MS, 5)])
    assert (verdict.ok, verdict.runs, verdict.gaps) == (True, 2, [0.002])


def test_start_after_done() -> None:
    events = [mark(0, EventName.SUBMIT), start(1, 1), stop(2, 1), mark(3, EventName.DONE), start(4, 2), stop(5, 2)]
    verdict = check_history(events)
    assert [run.token for run in verdict.started_after_done] == [2]
    assert not verdict.ok


class TestDone:
    """A client sees late that a task is done. Violations before that must be found too."""

    @staticmethod
    def check(*events: HistoryEvent) -> Verdict:
        """A run of p1 ends at 2 ms, a client sees the task done at 900 ms."""
        first = [mark(0, EventName.SUBMIT), start(MS, 1), stop(2 * MS, 1, ended=True)]
        return check_history([*first, *events, mark(900 * MS, EventName.DONE)])

    def test_seen_late(self) -> None:
        assert self.check().ok

    @pytest.mark.parametrize("last", [None, 800 * MS, 901 * MS])
    def test_started_after_the_end_before_it_was_seen(self, last: int | None) -> None:
        verdict = self.check(start(3 * MS, 2, "p2"), *([stop(last, 2, "p2")] if last else []))
        assert ([run.token for run in verdict.started_after_done], verdict.ran_when_done, verdict.ok) == (
            [2],
            [],
            False,
        )

    def test_an_end_that_was_lost_with_its_session(self) -> None:
        """The write that finishes the task may fail; then the task runs and ends again."""
        assert self.check(start(3 * MS, 2, "p2"), stop(800 * MS, 2, "p2", ended=True)).ok

    def test_ended_again_after_it_was_seen(self) -> None:
        verdict = self.check(start(3 * MS, 2, "p2"), stop(901 * MS, 2, "p2", ended=True))
        assert [run.token for run in verdict.started_after_done] == [2]

    def test_still_running_when_it_was_seen(self) -> None:
        """Also in a history that does not record how runs stopped."""
        verdict = check_history([mark(0, EventName.SUBMIT), start(1, 1), mark(3, EventName.DONE), stop(4, 1)])
        assert ([run.token for run in verdict.ran_when_done], verdict.ok) == ([1], False)

    @pytest.mark.parametrize("stopped, ok", [(1050 * MS, True), (1050 * MS + 1, False)])
    def test_still_running_in_a_frozen_process(self, stopped: int, ok: bool) -> None:
        freeze, thaw = fault(50 * MS, EventName.FREEZE, "p1"), fault(1000 * MS, EventName.THAW, "p1")
        events = [
            mark(0, EventName.SUBMIT),
            start(1, 1),
            freeze,
            start(60 * MS, 2, "p2"),
            stop(70 * MS, 2, "p2", ended=True),
        ]
        assert check_history([*events, mark(71 * MS, EventName.DONE), thaw, stop(stopped, 1)]).ok == ok

    def test_submitted_again(self) -> None:
        again = mark(901 * MS, EventName.SUBMIT), start(902 * MS, 2, "p2"), stop(903 * MS, 2, "p2")
        assert self.check(*again, mark(904 * MS, EventName.DONE)).ok


def test_start_after_a_delete_is_allowed() -> None:
    """A run that starts before its owner has seen the tombstone is stopped later; it breaks no promise."""
    assert check_history([mark(0, EventName.SUBMIT), mark(1, EventName.DELETE), start(2, 1), stop(3, 1)]).ok


def test_lost_submit() -> None:
    events = [mark(0, EventName.SUBMIT), mark(0, EventName.SUBMIT, "u"), start(1, 1), stop(2, 1), start(3, 2, task="u")]
    verdict = check_history(events)
    assert (verdict.lost, verdict.tasks_lost, verdict.ok) == (["t"], 1, False)


def test_submitted_again_and_lost() -> None:
    events = [mark(0, EventName.SUBMIT), start(1, 1), stop(2, 1), mark(3, EventName.DONE), mark(4, EventName.SUBMIT)]
    assert check_history(events).lost == ["t"]


def test_a_killed_run_does_not_count_as_running() -> None:
    assert check_history([mark(0, EventName.SUBMIT), start(1, 1), fault(2, EventName.KILL, "p1")]).lost == ["t"]


def test_stop_without_start() -> None:
    verdict = check_history([stop(1, 1)])
    assert (verdict.strays, verdict.ok) == ([stop(1, 1)], False)


def test_events_after_the_end_do_not_count() -> None:
    events = [mark(0, EventName.SUBMIT), start(1, 1), mark(2, EventName.END), stop(3, 1), stop(4, 1)]
    assert check_history(events).ok


@pytest.mark.parametrize("end", [[], [mark(2, EventName.END)]])
def test_duplicate_that_starts_last(end: list[HistoryEvent]) -> None:
    """Both runs are open when the history ends. They overlap only from its last event on, and still count."""
    verdict = check_history([start(0, 1), start(1, 2, "p2"), *end])
    assert [overlap.ns for overlap in verdict.overlaps] == [1]
    assert not verdict.ok


class TestFrozen:
    """A frozen process counts as not running, and has 50 ms after a thaw to cancel."""

    @staticmethod
    def overlap(stopped: int, *faults: HistoryEvent) -> list[int]:
        """Return the overlaps of two runs: p2 starts at 100 ms, while p1 is frozen, and p1 stops at `stopped`."""
        events = [start(0, 1), start(100 * MS, 2, "p2"), stop(stopped, 1), stop(900 * MS, 2, "p2"), *faults]
        return [overlap.ns for overlap in check_history(events).overlaps]

    freeze = fault(50 * MS, EventName.FREEZE, "p1")
    thaw = fault(300 * MS, EventName.THAW, "p1")

    def test_stopped_in_time(self) -> None:
        assert self.overlap(350 * MS, self.freeze, self.thaw) == []

    def test_stopped_too_late(self) -> None:
        assert self.overlap(350 * MS + 1, self.freeze, self.thaw) == [1]

    def test_frozen_too_late(self) -> None:
        assert self.overlap(350 * MS, fault(103 * MS, EventName.FREEZE, "p1"), self.thaw) == [3 * MS]

    def test_frozen_twice(self) -> None:
        again = (fault(360 * MS, EventName.FREEZE, "p1"), fault(500 * MS, EventName.THAW, "p1"))
        assert self.overlap(510 * MS, self.freeze, self.thaw, *again) == [10 * MS]

    def test_another_process_was_frozen(self) -> None:
        faults = fault(50 * MS, EventName.FREEZE, "p3"), fault(300 * MS, EventName.THAW, "p3")
        assert self.overlap(110 * MS, *faults) == [10 * MS]

    def test_the_other_of_the_two_was_frozen(self) -> None:
        faults = fault(110 * MS, EventName.FREEZE, "p2"), fault(120 * MS, EventName.THAW, "p2")
        assert self.overlap(200 * MS, *faults) == [40 * MS]

    def test_never_thawed(self) -> None:
        events = [start(0, 1), self.freeze, start(100 * MS, 2, "p2"), stop(900 * MS, 2, "p2")]
        assert check_history(events).ok

    resume = fault(300 * MS, EventName.RESUME, "p1")
    late = 300 * MS + AFTER_RESUME

    def test_a_process_has_a_second_to_write_its_thaw(self) -> None:
        events = self.freeze, self.resume, fault(self.late - 1, EventName.THAW, "p1")
        assert self.overlap(self.late + 50 * MS, *events) == []

    @pytest.mark.parametrize("thaw", [[], [fault(300 * MS + AFTER_RESUME + 70 * MS, EventName.THAW, "p1")]])
    def test_a_process_never_writes_its_thaw(self, thaw: list[HistoryEvent]) -> None:
        events = [start(0, 1), start(100 * MS, 2, "p2"), self.freeze, self.resume, *thaw, stop(self.late + 80 * MS, 1)]
        verdict = check_history([*events, stop(self.late + 90 * MS, 2, "p2")])
        assert [overlap.ns for overlap in verdict.overlaps] == [30 * MS]
        assert verdict.never_thawed == ([] if thaw else ["p1"])

    def test_frozen_again_without_a_thaw(self) -> None:
        again = fault(self.late + 60 * MS, EventName.FREEZE, "p1"), fault(self.late + 500 * MS, EventName.THAW, "p1")
        events = [
            start(0, 1),
            start(100 * MS, 2, "p2"),
            self.freeze,
            self.resume,
            *again,
            stop(self.late + 501 * MS, 1),
        ]
        verdict = check_history([*events, stop(self.late + 502 * MS, 2, "p2")])
        assert [overlap.ns for overlap in verdict.overlaps] == [10 * MS]

    def test_frozen_while_it_is_frozen(self) -> None:
        assert self.overlap(350 * MS, self.freeze, fault(60 * MS, EventName.FREEZE, "p1"), self.thaw) == []

    def test_frozen_before_its_first_run(self) -> None:
        events = [self.freeze, self.resume, start(self.late + MS, 1), stop(self.late + 2 * MS, 1)]
        assert check_history(events).never_thawed == []

    def test_killed_while_frozen(self) -> None:
        events = [start(0, 1), self.freeze, start(100 * MS, 2, "p2"), fault(200 * MS, EventName.KILL, "p1")]
        assert check_history([*events, stop(900 * MS, 2, "p2")]).ok

    def test_killed_while_frozen_and_started_again(self) -> None:
        """The death ends the freeze: a new process with the same name is not frozen."""
        kill = fault(200 * MS, EventName.KILL, "p1")
        events = [start(0, 1), self.freeze, kill, start(400 * MS, 2, "p2"), start(500 * MS, 3), stop(501 * MS, 3)]
        assert [overlap.ns for overlap in check_history(events).overlaps] == [MS]

    def test_resumed_although_it_has_died(self) -> None:
        """A SIGCONT to a dead process does not affect the process that replaces it."""
        kill = fault(200 * MS, EventName.KILL, "p1")
        verdict = check_history(
            [start(0, 1), self.freeze, kill, self.resume, start(400 * MS, 2), stop(self.late + MS, 2)]
        )
        assert verdict.never_thawed == []
        assert self.overlap(100 * MS + 1, self.resume) == [1]

    def test_thawed_without_freeze(self) -> None:
        assert self.overlap(100 * MS + 1, self.thaw) == [1]


def test_gaps() -> None:
    """Nearest rank: of 100 gaps of 1 to 100 ms, p50 is the 50th."""
    events, t = [], 0
    for n in range(101):
        events += [start(t, n), stop(t + MS, n)]
        t += MS + (n + 1) * MS
    verdict = check_history(reversed(events))
    assert len(verdict.gaps) == 100
    assert [verdict.gap(fraction) for fraction in (0, 0.5, 0.99, 1)] == [0.001, 0.05, 0.099, 0.1]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=20), st.integers(0, 19), st.integers(1, 4))
def test_any_one_overlap_is_found(runs: list[tuple[int, int]], chosen: int, early: int) -> None:
    """Successive runs are correct. If any one of them starts too early, the overlap is found."""
    begins, t = [], 0
    for length, pause in runs:
        begins.append((t, t + length))
        t += length + pause

    def history(shift: dict[int, int]) -> list[HistoryEvent]:
        events = []
        for n, (begin, end) in enumerate(begins):
            process = f"p{n}"
            events += [start(begin - shift.get(n, 0), n, process), stop(end, n, process)]
        return events

    assert check_history(history({})).ok
    if 0 < chosen < len(begins):
        shift = begins[chosen][0] - begins[chosen - 1][1] + min(early, runs[chosen - 1][0])
        verdict = check_history(history({chosen: shift}))
        assert [overlap.ns for overlap in verdict.overlaps][:1] == [min(early, runs[chosen - 1][0])]


# ---- the record


def test_recorded_in_memory() -> None:
    times = iter(range(1, 10))
    history = History(process="p", now=lambda: next(times))
    history.record(EventName.SUBMIT, task="t")
    history.start("t", 7, "n.1")
    history.stop("t", 7, "n.1")
    history.record(EventName.KILL, process="q")
    assert history.events == [
        HistoryEvent(1, EventName.SUBMIT, "p", "", "t"),
        HistoryEvent(2, EventName.START, "p", "n.1", "t", 7),
        HistoryEvent(3, EventName.STOP, "p", "n.1", "t", 7),
        HistoryEvent(4, EventName.KILL, "q"),
    ]
    history.close()


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Each line is one append, so the lines of several processes never mix."""
    program = """
import sys
from metafora_trio.testing.history import History
with History(sys.argv[1]) as history:
    for token in range(1, 300):
        history.start("t" * 100, token, "n")
        history.stop("t" * 100, token, "n", ended=True)
"""
    path = tmp_path / "history"
    writers = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    with History(path) as history:
        history.record(EventName.END)
    history.close()
    events = History.read([path])
    assert len(events) == 2 * 2 * 299 + 1
    assert {event.process for event in events} == {str(pid) for pid in (*(w.pid for w in writers), os.getpid())}
    assert events[-1].ev is EventName.END
    assert [event.ended for event in events if event.ev is EventName.STOP] == [True] * 2 * 299
    assert sorted(events, key=lambda event: event.t)[-1] == events[-1]
