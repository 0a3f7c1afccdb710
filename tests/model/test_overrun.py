"""When tasks are reported that are open after the end of their lease."""

from __future__ import annotations

from collections.abc import Sequence

from metafora_trio._model.overrun import SECONDS_BETWEEN_LOOKS, OverrunDetector


def looks(detector: OverrunDetector, *, at: float, end: float, times: int, tasks: Sequence[str] = ("t",)) -> list[int]:
    """Look some times, ten milliseconds apart; return which of the looks have reported the tasks."""
    found = [detector.look(at + n * SECONDS_BETWEEN_LOOKS, end, lambda: tasks) for n in range(times)]
    assert {tuple(each) for each in found} <= {(), tuple(tasks)}
    return [number for number, each in enumerate(found) if each]


def test_what_is_open_for_more_than_50_ms_is_reported_once() -> None:
    """The first look at the very end of the lease does not count: the lease is not over yet."""
    assert looks(OverrunDetector(), at=10.0, end=10.0, times=100) == [6]


def test_looks_are_counted_and_not_seconds() -> None:
    """A process that was frozen past the end of its lease has the same time to close its scopes when it goes on."""
    assert looks(OverrunDetector(), at=500.0, end=10.0, times=100) == [5]


def test_a_lease_that_is_renewed_in_time_starts_the_count_again() -> None:
    detector = OverrunDetector()
    assert looks(detector, at=10.0, end=10.0, times=6) == []
    assert looks(detector, at=10.1, end=20.0, times=1) == []
    assert looks(detector, at=20.0, end=20.0, times=7) == [6]


def test_each_end_of_a_lease_is_reported() -> None:
    detector = OverrunDetector()
    assert looks(detector, at=10.1, end=10.0, times=50) == [5]
    assert looks(detector, at=20.1, end=20.0, times=50) == [5]


def test_what_opens_late_is_reported_as_soon_as_it_is_seen() -> None:
    """Nothing may be open by then, so it needs no more time."""
    detector = OverrunDetector()
    assert looks(detector, at=10.1, end=10.0, times=50, tasks=()) == []
    assert looks(detector, at=10.7, end=10.0, times=3) == [0]


def test_it_sleeps_until_the_end_and_then_looks_often() -> None:
    detector = OverrunDetector()
    assert detector.until_next_look(7.0, 10.0) == 3.0
    assert detector.until_next_look(10.0, 10.0) == SECONDS_BETWEEN_LOOKS
