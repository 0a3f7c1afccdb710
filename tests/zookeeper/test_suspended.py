"""How long the machine was suspended, by clocks that cannot be read at the same instant."""

from __future__ import annotations

import time

import pytest

from metafora_trio_zookeeper._session.heartbeat import suspended_seconds


class Clocks:
    """The system's clocks, each of which is read some microseconds after the last. The process can be paused before a
    reading, or the machine suspended."""

    def __init__(self, **before: tuple[float, float]) -> None:
        self.monotonic = 1000.0
        self.suspended = 7.0
        self.readings = 0
        self._before = before

    def read(self, clock: int) -> float:
        paused, suspended = self._before.get(f"reading_{self.readings}", (0.0, 0.0))
        self.readings += 1
        self.monotonic += 2e-6 + paused
        self.suspended += suspended
        return self.monotonic + (self.suspended if clock == time.CLOCK_BOOTTIME else 0.0)


@pytest.mark.parametrize("reading", range(4))
@pytest.mark.parametrize("suspended", [0.0, 3.0])
def test_a_pause_between_two_clock_readings_is_no_suspend(
    monkeypatch: pytest.MonkeyPatch, reading: int, suspended: float
) -> None:
    clocks = Clocks(**{f"reading_{reading}": (5.0, suspended)})
    monkeypatch.setattr(time, "clock_gettime", clocks.read)
    readings = [suspended_seconds() for _ in range(3)]
    assert readings[0] in (pytest.approx(7.0, abs=0.001), pytest.approx(7.0 + suspended, abs=0.001))
    assert readings[1:] == [pytest.approx(7.0 + suspended, abs=0.001)] * 2


def test_pauses_between_all_readings_make_it_too_low_never_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(**{f"reading_{n}": (5.0, 0.0) for n in range(100)})
    monkeypatch.setattr(time, "clock_gettime", clocks.read)
    assert 7.0 - 5.001 < suspended_seconds() < 7.0
    assert clocks.readings < 100


def test_a_system_without_such_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert suspended_seconds() == 0.0
