"""A short chaos run against a real server: the promises hold, and nothing is left behind, however it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from stress.chaos import run as chaos_run
from stress.chaos.command import main
from tests.support.processes import run_until_signalled, wait_ended

SMALL = ["--servers", "1", "--nodes", "3", "--tasks", "12", "--session-timeout", "2", "--seed", "3"]


def test_a_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(chaos_run, "_QUIET", 1.0)
    report = tmp_path / "report.html"

    found = main([*SMALL, "--seconds", "10", "--json", "--report", str(report), "--keep", str(tmp_path / "run")])

    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert (found, figures["verdict"], figures["seed"]) == (0, "ok", 3), printed.err
    assert figures["faults"] >= 2
    assert figures["runs"] >= 24  # all at the beginning, and those that moved
    assert figures["overlaps"] == figures["lost"] == figures["old_token_writes_accepted"] == 0
    assert "</svg>" in report.read_text()


def test_tasks_that_ignore_their_lease_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real bug on real processes: nodes that are cut off or were frozen keep running tasks that others now own."""
    monkeypatch.setattr(chaos_run, "_QUIET", 1.0)

    found = main([*SMALL, "--seconds", "10", "--json", "--break", "lease", "--keep", str(tmp_path / "run")])

    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert (found, figures["verdict"], figures["lost"]) == (1, "violated", 0), printed.err
    assert figures["overlaps"] > 0
    assert figures["old_token_writes_accepted"] == 0  # the store refuses old tokens
    assert figures["old_token_writes_rejected"] > 0
    assert "VIOLATION: overlap of " in printed.err


def test_poison_restarts_no_innocent_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chaos_run, "_QUIET", 1.0)
    arguments = [*SMALL, "--session-timeout", "4", "--poison", "--large", "5", "--seconds", "10", "--json"]

    found = main([*arguments, "--keep", str(tmp_path / "run")])

    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert (found, figures["verdict"], figures["innocents_restarted"]) == (0, "ok", 0), printed.err
    assert figures["overlaps"] == figures["lost"] == 0
    lines = [line for path in (tmp_path / "run" / "history").iterdir() for line in path.read_text().splitlines()]
    for poison in ("returns", "exits", "group", "raises", "stubborn", "brief", "deep", "large"):
        assert any('"ev":"start"' in line and f'"poison-{poison}-' in line for line in lines), poison
    assert not any("poison-unreadable-" in line for line in lines)


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_everything_started_ends_with_the_run(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """Even a node that is frozen at that moment."""
    report, kept = tmp_path / "report.html", tmp_path / "run"
    command = ["stress.chaos", *SMALL, "--report", str(report), "--keep", str(kept)]

    ended_with, started = run_until_signalled(command, number, when="] freeze ")

    assert len(started) == 4  # a server and three nodes
    wait_ended(started)
    assert ended_with == status
    if number is signal.SIGINT:
        assert "interrupted" in report.read_text()
    assert main(["--check", str(kept)]) == 130  # not 0: the run was fine so far, but it is incomplete
