"""Each benchmark at a tiny size on its own ZooKeeper: it prints the right keys and leaves nothing behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from stress.bench import cold_start, idle, moves
from stress.bench.command import main
from tests.support.processes import run_until_signalled, wait_ended

KEYS = {
    "claims": ["tasks", "seconds", "per_s", "raw_per_s", "ratio", "attempts_per_task", "duplicates"],
    "cluster": ["seconds", "spread", "attempts_per_task", "duplicates"],
    "failover": ["detect_seconds", "reclaim_seconds", "spread", "duplicates", "lost"],
    "handover": ["seconds", "gap_p50_ms", "gap_p99_ms", "overlap_ms", "duplicates"],
    "join": ["seconds", "moves", "minimum_moves", "spread", "gap_p99_ms", "overlap_ms"],
    "idle": ["cpu_percent", "rss_mb", "kib_per_task", "kib_per_bare_trio_task"],
    "client": [
        *("submit_per_s", "get_ms", "get_without_view_ms", "wait_seconds"),
        *("list_ended_seconds", "delete_per_s", "delete_ended_per_s"),
    ],
}


@pytest.mark.parametrize("name", KEYS)
def test_the_last_line_is_one_json_object_with_the_keys(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the figures for promises are checked, because a tiny run on a busy machine shows nothing about speed."""
    monkeypatch.setattr(cold_start, "QUIET", 1.0)
    monkeypatch.setattr(moves, "QUIET", 1.0)
    monkeypatch.setattr(idle, "SECONDS", 0.5)
    monkeypatch.setattr(idle, "REST", 0.0)

    status = main([name, "--tasks", "60", "--json"])

    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert list(figures) == KEYS[name]
    assert {figures.get(key, 0) for key in ("duplicates", "lost", "overlap_ms")} == {0}
    assert status == 0
    assert all(key in printed.err for key in KEYS[name])


@pytest.mark.parametrize("number,status", [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_everything_started_ends_with_the_benchmark(number: signal.Signals, status: int, tmp_path: Path) -> None:
    command = ["stress.bench", "idle", "--tasks", "12"]

    ended_with, started = run_until_signalled(command, number, when="12 tasks run", TMPDIR=str(tmp_path))

    assert len(started) == 2  # a server and a node
    wait_ended(started)
    assert ended_with == status
    if number is signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []
