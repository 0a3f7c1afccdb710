"""The commands nodes, freeze, unfreeze, balance and drain."""

from __future__ import annotations

import pytest

from tests.support.shell import Shell


@pytest.fixture
def two(shell: Shell) -> Shell:
    """Return a shell with the nodes ant and bee, and four tasks."""
    shell.cluster.add_nodes("ant", "bee")
    assert shell("submit", "a", "b", "c", "d") == 0
    return shell


def test_nodes(two: Shell) -> None:
    """The table shows the load of each node; JSON has every field."""
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
    """Commands go to the nodes named, or to all nodes."""
    assert two(verb, "ant") == 0
    assert (two.out, two.err) == ("", f"node ant told to {verb}\n")
    assert [node.frozen for node in two.cluster.nodes] == [verb == "freeze", False]
    assert two(verb, "--all", "-o", "json") == 0
    assert [name.split(".")[0] for name in two.json["nodes"]] == ["ant", "bee"]
    assert [node.frozen for node in two.cluster.nodes] == [verb == "freeze"] * 2


def test_drain_waits(two: Shell) -> None:
    """With --wait it returns when the node has left and other nodes have its tasks."""
    assert two("drain", "ant", "--wait") == 0
    assert two.err == "node ant told to drain\n1 node drained\n"
    assert [len(node.tasks) for node in two.cluster.nodes] == [0, 0]
    assert two("drain", "ant", "bee") == 0
    assert two.err == "node ant told to drain\nnode bee told to drain\n"


def test_an_outage_in_the_middle(two: Shell) -> None:
    """It prints the nodes that got the command, and does not wait for nodes that may not have got it."""
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
    """If no other node can take the tasks, a drain takes long, and --timeout ends the wait."""
    shell.cluster.add_nodes("ant")
    shell.cluster.add_nodes("bee", capacity=0)
    assert shell("submit", "a") == 0
    assert shell("drain", "ant", "--wait", "--timeout", "5") == 6
    assert "error: still here after 5 s: ant." in shell.err


def test_a_timeout_of_drain_needs_wait(two: Shell) -> None:
    """Without --wait, --timeout is wrong usage, and no node gets the command."""
    assert two("drain", "ant", "--timeout", "5") == 2
    assert two.err.startswith("error: --timeout is of use with --wait only\n")
    assert "told" not in two.err


@pytest.mark.parametrize("verb", ["freeze", "unfreeze", "balance", "drain"])
def test_unknown_nodes(two: Shell, verb: str) -> None:
    """If a named node does not exist, the exit code is 3, and the others get the command. Naming no node is wrong
    usage."""
    assert two(verb, "nope", "bee") == 3
    assert f"node bee told to {verb}\n" in two.err
    assert "error: no live node 'nope'\nhint: `metafora nodes` lists the live ones\n" in two.err
    assert two(verb) == 2
    assert two.err.splitlines()[-1] == f"hint: see `metafora {verb} --help`"
