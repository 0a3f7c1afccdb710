"""metafora demo, run in this process: its output and its verdict."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
import trio

from metafora_trio import Client
from metafora_trio.cli._demo.screen import running
from metafora_trio.testing.history import EventName, HistoryEvent, Verdict
from tests.support.shell import Shell


def test_demo(shell: Shell) -> None:
    """It prints the acts, a row with the owner of each task after each act, the fate of each node, and the verdict."""
    assert shell("demo", given=False) == 0
    acts = [line.split()[2] for line in shell.out.splitlines() if " s  " in line and line.split()[2].isupper()]
    assert acts == ["START", "CRASH", "DRAIN", "JOIN"]
    lines = [line.split() for line in shell.out.splitlines()]
    rows = [words[2:14] for words in lines if words[1:2] == ["s"] and words[2] in ("·", "ant")]
    assert rows[0] == ["·"] * 12
    assert sorted(set(rows[-1])) == ["ant", "dog"]
    fates = {words[0]: words[1:3] for words in lines if words and words[0] in ("ant", "bee", "cat", "dog")}
    assert fates == {"ant": ["12", "6"], "bee": ["4", "0"], "cat": ["6", "0"], "dog": ["6", "6"]}
    assert "\nmoves: 16\n" in shell.out
    assert shell.out.endswith("\ntasks lost: 0\nduplicate runs: 0\n")


def test_demo_json(shell: Shell) -> None:
    """With --json the demo is shown on stderr, and stdout is one line: the summary."""
    assert shell("demo", "--json", "--seconds", "20", given=False) == 0
    summary = json.loads(shell.out.splitlines()[-1])
    assert summary == {
        "ok": True,
        "tasks": 12,
        "nodes": 4,
        "crashes": 1,
        "runs": 28,
        "moves": 16,
        "tasks_lost": 0,
        "duplicate_runs": 0,
        "stuck_in_drain": [],
        "longest_gap_seconds": summary["longest_gap_seconds"],
        "median_gap_seconds": summary["median_gap_seconds"],
        "seconds": 20.0,
    }
    assert summary["longest_gap_seconds"] < 0.5
    assert "CRASH" in shell.err


def history(shell: Shell) -> list[str]:
    """Return the events printed on stderr after the error."""
    return [json.loads(line)["ev"] for line in shell.err.partition("; this is what happened:\n")[2].splitlines()]


def test_a_broken_promise_is_reported(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the checker finds a lost task, the exit code is 1 and the history is printed."""
    monkeypatch.setattr("metafora_trio.cli._demo.command.check_history", lambda events: Verdict(lost=["task-01"]))
    assert shell("demo", given=False) == 1
    assert "\ntasks lost: 1\n" in shell.out
    assert shell.err.startswith("error: a promise was broken; this is what happened:\n")
    assert history(shell).count("start") == 28
    assert shell("demo", "--json", given=False) == 1
    assert json.loads(shell.out.splitlines()[-1])["tasks_lost"] == 1
    assert history(shell).count("start") == 28


def test_a_node_that_does_not_leave_is_reported(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that gets stuck is a failure, reported with the node's name, its fate, and the history."""

    async def in_vain(client: Client, node: str) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Client, "drain", in_vain)
    assert shell("demo", given=False) == 1
    assert shell.err.startswith("error: cat was told to drain, and has not left; this is what happened:\n")
    assert re.search(r"^cat .* told to drain at \d+\.\d s, did not leave$", shell.out, re.MULTILINE)
    assert "\ntasks lost: 0\n" in shell.out
    assert shell("demo", "--json", given=False) == 1
    summary = json.loads(shell.out.splitlines()[-1])
    assert (summary["ok"], summary["stuck_in_drain"]) == (False, ["cat"])
    assert history(shell).count("start") == summary["runs"]


def test_an_uneven_share_is_reported_but_is_no_failure(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It breaks no promise: each task ran on one node all the time."""
    monkeypatch.setattr("metafora_trio.cli._demo.command._is_even", lambda placement, nodes: False)
    assert shell("demo", given=False) == 0
    assert shell.out.count("not yet shared evenly after 10 s\n") == 4
    assert shell.err == ""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number: int, code: int) -> None:
    """SIGINT or SIGTERM during the demo ends it without a traceback."""
    command = [sys.executable, "-u", "-m", "metafora_trio.cli", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        while "START" not in demo.stdout.readline():
            pass
        demo.send_signal(number)
        assert demo.stderr.read() == "interrupted: stopping every node, and cleaning up\n"
        assert demo.wait() == code


def test_placement_of_running_tasks() -> None:
    """It follows starts, stops and deaths. If two nodes run one task at once, it shows both."""
    events = [
        HistoryEvent(1, EventName.START, "ant", task="a"),
        HistoryEvent(2, EventName.START, "bee", task="b"),
        HistoryEvent(3, EventName.START, "ant", task="c"),
        HistoryEvent(4, EventName.START, "bee", task="c"),
        HistoryEvent(5, EventName.STOP, "ant", task="a"),
    ]
    assert running("abcd", events) == {"a": None, "b": "bee", "c": "ant+bee", "d": None}
    assert running("bc", [*events[1:4], HistoryEvent(6, EventName.KILL, "bee")]) == {"b": None, "c": "ant"}
