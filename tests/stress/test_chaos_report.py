"""The command line of chaos runs, without a run: judging the evidence of an earlier run, and the report page."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, redirect_stderr
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from metafora_trio.testing.history import EventName, HistoryEvent
from stress.chaos import run as chaos_run
from stress.chaos.cluster import ChaosCluster, Terms
from stress.chaos.command import main
from stress.chaos.run import Outline, Say
from stress.chaos.store import Store, Write
from stress.chaos.timeline import lanes

S = 1_000_000_000
KEYS = [
    *("seconds", "faults", "runs", "overlaps", "lost", "old_token_writes_accepted", "old_token_writes_rejected"),
    *("innocents_restarted", "restarts", "gap_p50_ms", "gap_p99_ms", "gap_max_ms", "crash_loop_gap_max_ms"),
    *("verdict", "seed"),
]


def keep(folder: Path, *, second_start: float, reason: str = "session_lost") -> None:
    """Write the evidence of a run in which n1 stops a task at 12 s, and n2 starts it at `second_start`."""
    events = [
        HistoryEvent(0, EventName.SUBMIT, "nemesis", task="a"),
        HistoryEvent(1 * S, EventName.START, "n1.1", "n1.x", "a", 1),
        HistoryEvent(round(second_start * S), EventName.START, "n2.1", "n2.y", "a", 2),
        HistoryEvent(12 * S, EventName.STOP, "n1.1", "n1.x", "a", 1, reason=reason),
        HistoryEvent(20 * S, EventName.END),
    ]
    lines = [json.dumps({name: getattr(event, name) for name in HistoryEvent.__slots__}) for event in events]
    (folder / "history").mkdir()
    (folder / "history" / "all.jsonl").write_text("\n".join(lines) + "\n")
    fault = {"kind": "cut", "target": "n1", "start": 8 * S, "end": 14 * S, "note": "<&>"}
    skipped = {
        "kind": "slow disk",
        "target": "s1",
        "start": 8 * S,
        "end": 8 * S,
        "skipped": True,
        "note": "no compiler",
    }
    (folder / "faults.jsonl").write_text(f"{json.dumps(fault)}\n{json.dumps(skipped)}\n")
    store = Store(folder / "store.db")
    store.write("n1.1", [Write("a", 1)])
    store.write("n2.1", [Write("a", 2)])
    store.close()
    terms = Terms(nodes=2, tasks=1, seed=5, broken="lease")
    Outline(terms, begin=2 * S, healed=14 * S, end=20 * S, complete=True).write(folder)


def test_kept_evidence_is_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, second_start=13.5)

    status = main(["--check", str(tmp_path), "--json"])

    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result) == KEYS
    assert (status, result["verdict"], result["gap_max_ms"], result["faults"], result["seed"]) == (0, "ok", 1500, 1, 5)


def test_restarts_are_counted_by_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, second_start=13.5, reason="released")

    status = main(["--check", str(tmp_path), "--json", "--report", str(tmp_path / "out.html")])

    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert (status, result["innocents_restarted"], result["restarts"]) == (1, 1, {"released": 1})
    assert "nothing of its own explains it: released" in printed.err
    assert "<td class=t>unexplained: released</td><td>1</td>" in (tmp_path / "out.html").read_text()


def test_a_violation_is_printed_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, second_start=11.5)

    assert main(["--check", str(tmp_path)]) == 1
    assert "VIOLATION: overlap of 500.0 ms: a ran in n1.1 (token 1) and in n2.1 (token 2)" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["history", "faults.jsonl", "store.db"])
def test_a_run_with_missing_evidence_is_not_ok(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, second_start=13.5)
    (tmp_path / missing).rename(tmp_path / "elsewhere")

    assert main(["--check", str(tmp_path)]) == 1
    assert "VIOLATION: no evidence: " in capsys.readouterr().out


def test_a_run_that_failed_is_judged_and_leaves_its_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def fail(terms: Terms, folder: Path) -> AsyncGenerator[ChaosCluster]:
        raise OSError("no room")
        yield

    monkeypatch.setattr(chaos_run, "open_chaos_cluster", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with redirect_stderr(sys.stdout):  # as nox does
        assert main(["--report", str(tmp_path / "out.html"), "--json"]) == 1

    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1])["verdict"] == "violated"
    assert "VIOLATION: the run has failed: OSError: no room" in printed
    assert "the run has failed: OSError: no room" in (tmp_path / "out.html").read_text()
    (kept,) = tmp_path.glob("metafora-chaos-*")
    assert f"the evidence is in {kept}" in printed
    assert main(["--check", str(kept)]) == 1


def test_an_interrupted_run_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Path] = []

    async def run(terms: Terms, folder: Path, say: Say) -> None:
        used.append(folder)
        Outline(terms, end=5 * S).write(folder)

    monkeypatch.setattr("stress.chaos.command.run_chaos", run)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    assert main([]) == 130
    assert [folder.exists() for folder in used] == [False]
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, second_start=11.5)

    main(["--check", str(tmp_path), "--report", str(tmp_path / "out.html")])

    page = (tmp_path / "out.html").read_text()
    assert not re.search(r"https?:|src=|@import|<script", page)
    assert "python -m stress.chaos --servers 3 --nodes 2 --tasks 1" in page
    assert "overlap of 500.0 ms" in page
    assert "no compiler" in page
    assert "<td class=t>all else is well</td>" in page
    assert drawn(page) == {"overlap": 1, "gap": 0, "load": 2, "fault node": 1, "fault server": 0}


def drawn(page: str) -> dict[str, int]:
    """Count the elements of each kind in the timeline. Skipped faults are not drawn."""
    (svg,) = re.findall(r"<svg.*</svg>", page, re.DOTALL)
    picture = ElementTree.fromstring(svg)
    looks = ("overlap", "gap", "load", "fault node", "fault server")
    return {look: len(picture.findall(f".//*[@class='{look}']")) for look in looks}


def test_a_gap_is_marked(tmp_path: Path) -> None:
    keep(tmp_path, second_start=13.5)

    main(["--check", str(tmp_path), "--report", str(tmp_path / "out.html")])

    page = (tmp_path / "out.html").read_text()
    assert drawn(page) == {"overlap": 0, "gap": 1, "load": 2, "fault node": 1, "fault server": 0}
    assert "gap of 1.50 s: a, n1.1 to n2.1, after cut n1" in page


def test_a_page_of_a_run_that_ended_before_its_first_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same holds if its parent was killed, because then it leaves no other files."""
    Outline(Terms(seed=1), end=5 * S).write(tmp_path)

    assert main(["--check", str(tmp_path), "--json", "--report", str(tmp_path / "out.html")]) == 130
    assert "interrupted" in (tmp_path / "out.html").read_text()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["verdict"], result["lost"]) == ("interrupted", 0)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)), max_size=20))
def test_faults_in_one_lane_do_not_overlap(spans: list[tuple[int, int]]) -> None:
    faults = sorted((at, at + length) for at, length in spans)
    found = lanes(faults)

    for lane in set(found):
        together = [fault for fault, its in zip(faults, found, strict=True) if its == lane]
        assert all(one[1] <= other[0] for one, other in pairwise(together))
