"""metafora doctor: its findings and its exit code."""

from __future__ import annotations

import pytest

from metafora_trio import Consumer
from metafora_trio.contract._upkeep import Diagnosable, Diagnosis, Finding, Level, Removable
from tests.support.shell import Cluster, Shell, handler


class Examined(Cluster):
    """A cluster whose coordinator can diagnose its broker."""

    diagnosis = Diagnosis([Finding(Level.OK, "the broker is well")], True)

    async def diagnose(self) -> Diagnosis:
        return self.diagnosis


def findings(shell: Shell) -> dict[str, list[str]]:
    """Return the texts of the findings by level."""
    assert shell.out, shell.err
    found: dict[str, list[str]] = {"ok": [], "warning": [], "problem": []}
    for finding in shell.json["findings"]:
        found[finding["level"]].append(finding["text"])
    return found


def test_a_healthy_cluster(shell: Shell) -> None:
    """If everything runs, the exit code is 0."""
    shell.cluster.add_nodes("ant", "bee")
    assert shell("submit", "a", "b", "c") == 0
    assert shell("doctor") == 0
    assert shell.out.splitlines() == [
        "✓ 2 nodes, 3 tasks: 3 running (listed in 0 ms)",
        "✓ 1 to 2 tasks a node",
        "2 ok, 0 warnings, 0 problems",
    ]


def test_no_node_runs_the_tasks(shell: Shell) -> None:
    """Tasks without a node are a problem, and the finding says what to do."""
    assert shell("submit", "a") == 0
    assert shell("doctor") == 1
    assert shell.out.splitlines()[1:] == [
        "✗ no node is alive: nothing runs",
        "    hint: start one: metafora run MODULE:HANDLER",
        "1 ok, 0 warnings, 1 problem",
    ]


def test_no_node_takes_the_tasks(shell: Shell) -> None:
    """A frozen node claims no task, and a finding names it. It still removes what was deleted."""
    frozen = Consumer(shell.cluster.memory, handler, name="ant")
    frozen.freeze()
    shell.cluster.consumers = [lambda: frozen]
    assert shell("submit", *(f"t{n}" for n in range(7)), "gone") == 0
    assert shell("rm", "gone") == 0
    assert shell("doctor", "-o", "json") == 1
    assert shell.json["healthy"] is False
    found = findings(shell)
    assert found["problem"] == [
        "no node takes tasks: all are draining, frozen or full",
        "unclaimed for more than 6 s: t0, t1, t2, t3, t4, and 2 more",
    ]
    (frozen_text,) = found["warning"]
    assert frozen_text.startswith("node ant.")
    assert frozen_text.endswith("is frozen, with 0 tasks")


def test_a_short_delay_is_no_finding(shell: Shell) -> None:
    """A task that was just submitted is not claimed yet, so the doctor waits before it reports it."""
    shell.cluster.add_nodes("ant", settle=12.0)
    assert shell("submit", "a") == 0
    assert shell("doctor", "-o", "json") == 0
    assert shell("doctor", "--patience", "1", "-o", "json") == 1
    assert findings(shell)["problem"] == ["unclaimed for more than 1 s: a"]


def test_two_nodes_with_one_name(shell: Shell) -> None:
    """This works, but the doctor warns because it confuses people."""
    shell.cluster.add_nodes("ant", "ant")
    assert shell("doctor", "-o", "json") == 0
    assert findings(shell)["warning"] == ["2 nodes have the name ant"]


@pytest.mark.parametrize(
    "level, usable, code",
    [
        (Level.OK, True, 0),
        (Level.WARNING, True, 0),
        (Level.PROBLEM, True, 1),
        (Level.PROBLEM, False, 5),
        (Level.WARNING, False, 0),
    ],
)
def test_findings_of_the_coordinator(shell: Shell, level: Level, usable: bool, code: int) -> None:
    """The coordinator's own findings come first. If it finds no cluster, the doctor does not look for tasks."""
    shell.cluster = cluster = Examined()
    cluster.diagnosis = Diagnosis([Finding(level, "the broker", "look at it")], usable)
    assert isinstance(cluster, Diagnosable)
    assert not isinstance(cluster, Removable)
    assert shell("doctor", "-o", "json") == code
    assert shell.json["findings"][0] == {"level": level, "text": "the broker", "hint": "look at it"}
    assert len(shell.json["findings"]) == (2 if usable else 1)
