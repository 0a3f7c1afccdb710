"""Turns: every node gets its turn, the same on every node, and a turn costs the same however many nodes there are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import NodeInfo
from metafora_trio._model.turns import RemovalOrder, StepInOrder

NODES = [f"n{i}.{i}" for i in range(6)]
TASKS = st.text("abc0123456789", min_size=1)
node_lists = st.lists(
    st.builds(NodeInfo, st.sampled_from(NODES), draining=st.booleans(), frozen=st.booleans()),
    min_size=1,
    unique_by=lambda node: node.identity,
)


def calls(function: Callable[[], object]) -> int:
    """Return how many functions are called while a function runs."""
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counted


# ---- removing deleted tasks


@given(node_lists, TASKS)
def test_removal_order(nodes: list[NodeInfo], task: str) -> None:
    """Every live node that does not drain gets its turn: first those that may receive tasks, then frozen ones."""
    order = RemovalOrder(nodes)
    frozen = {node.identity: node.frozen for node in nodes if not node.draining}
    turns = [order.node_at(task, turn) for turn in range(len(frozen))]
    assert sorted(map(str, turns)) == sorted(frozen)
    assert [frozen[str(node)] for node in turns] == sorted(frozen.values())
    assert order.node_at(task, len(turns)) == (turns[0] if turns else None)


@given(st.permutations(NODES), TASKS, st.integers(0, 20))
def test_removal_order_is_the_same_on_every_node(nodes: list[str], task: str, turn: int) -> None:
    there, here = RemovalOrder(map(NodeInfo, NODES)), RemovalOrder(map(NodeInfo, nodes))
    assert there.node_at(task, turn) == here.node_at(task, turn)


def test_no_node_removes_anything_without_nodes() -> None:
    assert RemovalOrder(()).node_at("t", 0) is None


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("count", [2, 5])
def test_removals_are_shared(count: int, turn: int) -> None:
    """Each node removes an equal part of many tasks, within 20 %."""
    order = RemovalOrder(map(NodeInfo, NODES[:count]))
    removed = Counter(order.node_at(f"task-{i}", turn) for i in range(2000))
    assert all(abs(removed[node] - 2000 / count) < 2000 / count / 5 for node in NODES[:count])


def test_a_removal_costs_the_same_among_many_nodes() -> None:
    """A hundred thousand deleted tasks may wait, so no turn may look at each node."""
    few, many = (RemovalOrder(NodeInfo(f"n.{i}") for i in range(count)) for count in (2, 1000))
    for turn in (0, 7):
        assert calls(lambda: many.node_at("t", turn)) == calls(lambda: few.node_at("t", turn))  # noqa: B023


# ---- stepping in


@given(st.permutations(NODES), st.integers(1, 6), TASKS, st.integers(0, 20), st.sampled_from([*NODES, None]))
def test_step_in_order(shuffled: list[str], count: int, task: str, begin: int, first: str | None) -> None:
    """In as many turns in a row as there are other nodes, each of them has one, and the first choice has none."""
    nodes = shuffled[:count]
    others = [node for node in nodes if node != first]
    order, same = StepInOrder(nodes), StepInOrder(sorted(nodes))
    turns = [order.node_at(task, begin + turn, first=first) for turn in range(len(others))]
    assert sorted(map(str, turns)) == sorted(others)
    assert turns == [same.node_at(task, begin + turn, first=first) for turn in range(len(others))]


@pytest.mark.parametrize("nodes, first", [([], None), ([], "n0.0"), (["n0.0"], "n0.0")])
def test_no_node_steps_in_for_the_only_one(nodes: list[str], first: str | None) -> None:
    assert StepInOrder(nodes).node_at("t", 1, first=first) is None


def test_all_others_share_the_tasks_of_a_silent_node() -> None:
    """If a node claims nothing, each other steps in for an equal part of its tasks, within 20 %."""
    order = StepInOrder(NODES)
    stepped = Counter(order.node_at(f"task-{i}", 1, first="n2.2") for i in range(2000))
    assert set(stepped) == set(NODES) - {"n2.2"}
    assert all(abs(count - 400) < 80 for count in stepped.values())


def test_stepping_in_costs_the_same_among_many_nodes() -> None:
    few, many = (StepInOrder(f"n.{i}" for i in range(count)) for count in (2, 1000))
    assert calls(lambda: many.node_at("t", 1, first="n.0")) == calls(lambda: few.node_at("t", 1, first="n.0"))
