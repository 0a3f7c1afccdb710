"""The benchmarks' arguments, arithmetic and verdicts. tests/zookeeper/test_bench.py tests the measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing

import noxfile
from metafora_trio.testing.history import EventName

pytest.importorskip("kazoo", reason="the benchmarks need the extra `zookeeper`")

from stress.bench.command import BENCHMARKS, main, table
from stress.bench.moves import minimum_moves, percentile
from stress.bench.observer import Observer
from stress.bench.result import Result


def test_the_benchmarks_are_those_of_the_noxfile() -> None:
    assert tuple(BENCHMARKS) == noxfile.BENCHMARKS


def test_help_has_an_example_of_each_use_and_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--help"])

    text = capsys.readouterr().out
    assert exit.value.code == 0
    assert "python -m stress.bench claims\n" in text
    assert all(f"\n  {name} " in text for name in BENCHMARKS)


@pytest.mark.parametrize(
    "loads,newcomers,moves",
    [
        ([300, 300, 300], 1, 225),
        ([30, 30, 30], 1, 22),  # the shares are 23, 23, 22 and 22; the old nodes keep the larger ones
        ([5, 5, 5], 0, 0),
        ([6, 5, 4], 0, 1),
        ([1, 0, 0], 3, 0),
        ([10], 1, 5),
    ],
)
def test_minimum_moves(loads: list[int], newcomers: int, moves: int) -> None:
    assert minimum_moves(loads, newcomers) == moves


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]

    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2
    assert percentile([], 0.5) == 0
    assert percentile([7.0], 0.99) == 7


def test_table_shows_targets_baselines_and_misses() -> None:
    lines = table("join", Result({"moves": 23, "minimum_moves": 22, "spread": 1}, {"moves": "22 at least"}))

    assert [line.split() for line in lines.splitlines()] == [
        ["moves", "23", "MISSED", "target", "=", "22", "baseline:", "22", "at", "least"],
        ["minimum_moves", "22"],
        ["spread", "1", "ok", "target", "<=", "1"],
    ]


class _Histories:
    """Writes histories as nodes would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, process: str, ev: str, task: str, t: int, token: int = 1) -> None:
        record = {"t": t, "ev": ev, "process": process, "node": f"{process}.x", "task": task, "token": token}
        with (self.folder / f"{process}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


@pytest.fixture
def histories(tmp_path: Path) -> _Histories:
    return _Histories(tmp_path)


def test_observer_follows_running_tasks(histories: _Histories) -> None:
    observer = Observer(histories.folder)
    assert not observer.look()
    histories.write("n1", "start", "a", 10)
    histories.write("n1", "start", "b", 11)
    histories.write("n2", "start", "c", 12)

    assert observer.look()
    assert dict(observer.running) == {"n1": {"a", "b"}, "n2": {"c"}}
    assert (observer.total, observer.spread(["n1", "n2"]), observer.last) == (3, 1, 12)

    histories.write("n1", "stop", "a", 13)
    assert observer.look()
    assert not observer.look()
    assert observer.running["n1"] == {"b"}


def test_observer_leaves_half_a_line_for_later(histories: _Histories) -> None:
    observer = Observer(histories.folder)
    histories.write("n1", "start", "a", 10)
    path = histories.folder / "n1.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    observer.look()
    path.write_text(whole + whole.replace('"a"', '"b"'))
    observer.look()

    assert observer.running["n1"] == {"a", "b"}


def test_gaps_are_from_a_stop_to_the_next_start_of_the_task(histories: _Histories) -> None:
    observer = Observer(histories.folder)
    histories.write("n1", "start", "a", 1_000_000)
    histories.write("n1", "stop", "a", 5_000_000)
    histories.write("n2", "start", "a", 8_000_000, token=2)
    histories.write("n2", "start", "new", 9_000_000)
    observer.look()

    assert observer.gaps_since(4_000_000) == [0.003]
    assert observer.starts_since(4_000_000) == [8_000_000, 9_000_000]
    assert observer.gaps_since(8_500_000) == []


def test_verdict_counts_duplicate_runs_and_lost_tasks(histories: _Histories) -> None:
    observer = Observer(histories.folder)
    observer.submitted(["a", "b", "lost"])
    now = observer.note(EventName.SUBMIT, task="c")
    histories.write("n1", "start", "a", now + 1)
    histories.write("n2", "start", "a", now + 2, token=2)
    histories.write("n1", "start", "b", now + 1)
    histories.write("n1", "start", "c", now + 50)
    verdict = observer.verdict()

    assert verdict.duplicate_runs == 1
    assert verdict.lost == ["lost"]


def test_tasks_of_a_killed_process_do_not_run(histories: _Histories) -> None:
    observer = Observer(histories.folder)
    now = observer.note(EventName.SUBMIT, task="a")
    histories.write("n1", "start", "a", now + 1)
    observer.look()
    observer.note(EventName.KILL, process="n1")

    assert observer.total == 0
    assert observer.verdict().lost == ["a"]


async def test_a_wait_that_times_out_reports_the_running_tasks(
    histories: _Histories, autojump_clock: trio.testing.MockClock
) -> None:
    observer = Observer(histories.folder)
    histories.write("n1", "start", "a", 10)

    with pytest.raises(trio.TooSlowError, match=r"not within 3 s: both run; running tasks by process: \{'n1': 1\}"):
        await observer.wait(lambda: observer.total == 2, timeout=3, what="both run")
    assert autojump_clock.current_time() == pytest.approx(3, abs=0.1)


async def test_quiet_time_counts_from_the_last_event(
    histories: _Histories, autojump_clock: trio.testing.MockClock
) -> None:
    observer = Observer(histories.folder)
    began = trio.current_time()

    async def start_one_later() -> None:
        await trio.sleep(2)
        histories.write("n1", "start", "a", 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_one_later)
        await observer.wait_quiet(5, timeout=60)

    assert trio.current_time() - began == pytest.approx(7, abs=0.2)
