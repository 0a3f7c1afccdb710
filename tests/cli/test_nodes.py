"""nodes, freeze, unfreeze, balance, drain."""

from __future__ import annotations

import pytest

from tests.support.shell import Shell


@pytest.fixture
def two(shell: Shell) -> Shell:
    """A shell with the nodes ant and bee, and four tasks."""
    shell.cluster.add_nodes("ant", "bee")
    assert shell("submit", "a", "b", "c", "d") == 0
    return shell


def test_nodes(two: Shell) -> None:
    """The table tells what each has; JSON tells all."""
    two.cluster.add_nodes("cat", capacity=0, tags=["gpu", "big"])
    assert two("nodes") == 0
    rows = {row[0]: row[1:] for row in two.rows}
    assert [rows[name][:3] for name in ("ant", "bee", "cat")] == [
        ["ready", "2", "0"],
        ["ready", "2", "0"],
        ["ready", "0", "0"],
    ]
    assert rows["cat"][5:7] == ["big", "gpu"]
    assert two("nodes", "-o", "json") == 0
    assert {node["name"]: node["capacity"] for node in two.json["nodes"]} == {"ant": None, "bee": None, "cat": 0}


@pytest.mark.parametrize("verb", ["freeze", "unfreeze", "balance"])
def test_commands_reach_the_nodes(two: Shell, verb: str) -> None:
    """By name, or all."""
    assert two(verb, "ant") == 0
    assert (two.out, two.err) == ("", f"node ant told to {verb}\n")
    assert [node.frozen for node in two.cluster.nodes] == [verb == "freeze", False]
    assert two(verb, "--all", "-o", "json") == 0
    assert [name.split(".")[0] for name in two.json["nodes"]] == ["ant", "bee"]
    assert [node.frozen for node in two.cluster.nodes] == [verb == "freeze"] * 2


def test_drain_waits(two: Shell) -> None:
    """With --wait it returns when the node has left, and others have its tasks."""
    assert two("drain", "ant", "--wait") == 0
    assert two.err == "node ant told to drain\n1 node drained\n"
    assert [len(node.tasks) for node in two.cluster.nodes] == [0, 0]
    assert two("drain", "ant", "bee") == 0
    assert two.err == "node ant told to drain\nnode bee told to drain\n"


def test_an_outage_in_the_middle(two: Shell) -> None:
    """Who was told is said, and nobody waits for those who may not have been."""
    two.cluster.answers = 1
    assert two("drain", "ant", "bee", "--wait", "-o", "json") == 5
    (told,) = two.json["nodes"]
    (left,) = {"ant", "bee"} - {told}
    assert two.err.splitlines()[:3] == [
        f"not told, or nobody knows: {left}",
        f"node {told} told to drain",
        "error: no answer within 10 s",
    ]


def test_drain_runs_out_of_time(shell: Shell) -> None:
    """Where nobody can take the tasks a drain takes its time, and --timeout gives up waiting."""
    shell.cluster.add_nodes("ant")
    shell.cluster.add_nodes("bee", capacity=0)
    assert shell("submit", "a") == 0
    assert shell("drain", "ant", "--wait", "--timeout", "5") == 6
    assert "error: still here after 5 s: ant." in shell.err


def test_a_timeout_of_drain_is_for_waiting(two: Shell) -> None:
    """Without --wait there is nothing to run out of time: nobody is told to drain."""
    assert two("drain", "ant", "--timeout", "5") == 2
    assert two.err.startswith("error: --timeout is of use with --wait only\n")
    assert "told" not in two.err


@pytest.mark.parametrize("verb", ["freeze", "unfreeze", "balance", "drain"])
def test_unknown_nodes(two: Shell, verb: str) -> None:
    """One that is not there: 3, and the others are told. None named: a matter of usage."""
    assert two(verb, "nope", "bee") == 3
    assert f"node bee told to {verb}\n" in two.err
    assert "error: no live node 'nope'\nhint: `metafora nodes` lists the live ones\n" in two.err
    assert two(verb) == 2
    assert two.err.splitlines()[-1] == f"hint: see `metafora {verb} --help`"
