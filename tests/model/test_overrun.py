"""OverrunDetector: reports the tasks that are still open after the end of the lease."""

from __future__ import annotations

from collections.abc import Sequence

from metafora_trio._model.overrun import SECONDS_BETWEEN_LOOKS, OverrunDetector


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
