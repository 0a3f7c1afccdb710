"""The watchdog's two judgements: which tasks are still open after the lease, and whether the event loop is blocked."""

from __future__ import annotations

from collections.abc import Sequence

from metafora_trio._model.overrun import SECONDS_BETWEEN_LOOKS, BlockedDetector, OverrunDetector


def looks(detector: OverrunDetector, *, at: float, end: float, times: int, tasks: Sequence[str] = ("t",)) -> list[int]:
    """Look repeatedly, ten milliseconds apart. Returns the indices of the looks that reported the tasks."""
    found = [detector.look(at + n * SECONDS_BETWEEN_LOOKS, end, lambda: tasks) for n in range(times)]
    assert {tuple(each) for each in found} <= {(), tuple(tasks)}
    return [number for number, each in enumerate(found) if each]


def test_tasks_open_for_more_than_50_ms_are_reported_once() -> None:
    """A look exactly at the end of the lease does not count, because the lease is not over yet."""
    assert looks(OverrunDetector(), at=10.0, end=10.0, times=100) == [6]


def test_counts_looks_not_seconds() -> None:
    """A process that was frozen past the end of its lease has the same time to close its scopes after the thaw."""
    assert looks(OverrunDetector(), at=500.0, end=10.0, times=100) == [5]


def test_renewal_in_time_restarts_the_count() -> None:
    detector = OverrunDetector()
    assert looks(detector, at=10.0, end=10.0, times=6) == []
    assert looks(detector, at=10.1, end=20.0, times=1) == []
    assert looks(detector, at=20.0, end=20.0, times=7) == [6]


def test_each_end_of_a_lease_is_reported() -> None:
    detector = OverrunDetector()
    assert looks(detector, at=10.1, end=10.0, times=50) == [5]
    assert looks(detector, at=20.1, end=20.0, times=50) == [5]


def test_task_that_opens_late_is_reported_at_the_next_look() -> None:
    """By then every scope must have closed, so the task gets no more time."""
    detector = OverrunDetector()
    assert looks(detector, at=10.1, end=10.0, times=50, tasks=()) == []
    assert looks(detector, at=10.7, end=10.0, times=3) == [0]


def test_next_look_is_at_the_end_and_then_every_10_ms() -> None:
    detector = OverrunDetector()
    assert detector.until_next_look(7.0, 10.0) == 3.0
    assert detector.until_next_look(10.0, 10.0) == SECONDS_BETWEEN_LOOKS


def test_reported_is_about_one_end_of_a_lease() -> None:
    detector = OverrunDetector()
    assert not detector.reported(10.0)
    looks(detector, at=10.1, end=10.0, times=7)
    assert (detector.reported(10.0), detector.reported(20.0)) == (True, False)


def test_looks_are_less_than_the_time_to_close_apart() -> None:
    """Five looks are the 50 ms that a process has after a thaw."""
    assert SECONDS_BETWEEN_LOOKS * 5 == 0.05


def blocked(detector: BlockedDetector, *, times: int, now: float = 15.0, beat: float = 4.0) -> list[int]:
    """Look repeatedly at a loop whose lease cancels at 8 and ends at 10. Returns the indices of the looks to report."""
    return [number for number in range(times) if detector.look(now, beat, 8.0, 10.0)]


def test_a_blocked_loop_is_reported_once() -> None:
    """It has the same few looks as a process that was frozen."""
    assert blocked(BlockedDetector(), times=100) == [5]


def test_a_loop_is_not_blocked_that_runs_or_whose_lease_lasts() -> None:
    assert blocked(BlockedDetector(), times=100, now=10.0) == []
    assert blocked(BlockedDetector(), times=100, beat=8.0) == []


def test_a_loop_that_has_run_is_reported_again_when_it_blocks_again() -> None:
    detector = BlockedDetector()
    assert blocked(detector, times=5) == []
    assert blocked(detector, times=1, beat=9.0) == []
    assert blocked(detector, times=7) == [5]
    assert blocked(detector, times=1, beat=9.0) == []
    assert blocked(detector, times=7) == [5]


def test_a_blocked_loop_is_given_up_once_after_the_timeout() -> None:
    detector = BlockedDetector()
    assert not detector.give_up(100.0, 4.0, 30.0), "nothing has been reported"
    blocked(detector, times=6)
    assert [detector.give_up(now, 4.0, 30.0) for now in (33.9, 34.0, 35.0)] == [False, True, False]


def test_a_loop_that_blocks_again_is_given_up_again() -> None:
    detector = BlockedDetector()
    blocked(detector, times=6)
    assert detector.give_up(34.0, 4.0, 30.0)
    blocked(detector, times=1, beat=9.0)
    assert not detector.give_up(39.0, 9.0, 30.0), "it has run since"
    blocked(detector, times=6)
    assert detector.give_up(39.0, 9.0, 30.0)
