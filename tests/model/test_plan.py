"""The plan: within one task of even, by the fewest moves possible, the same on every node."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import Claim, NodeInfo
from metafora_trio._model.plan import affinity_order, may_receive, plan
from metafora_trio._model.view import ClaimAdded, NodeAdded, TaskAdded, TaskDeleted
from metafora_trio.contract import ClaimKind, ClusterView

NODES = [f"n{i}.{i}" for i in range(6)]
GONE = "gone.9"  # has claims, but its node has left


@dataclass(frozen=True)
class Layout:
    """A cluster as it is drawn: who is there, and who owns each task (None: nobody)."""

    nodes: tuple[NodeInfo, ...]
    owners: Mapping[str, str | None]

    def view(self, shuffled: random.Random | None = None) -> ClusterView:
        nodes, owners = list(self.nodes), list(enumerate(self.owners.items()))
        if shuffled is not None:
            shuffled.shuffle(nodes)
            shuffled.shuffle(owners)
        view = ClusterView()
        for node in nodes:
            view.apply(NodeAdded(node))
        for seq, (task, owner) in owners:
            view.apply(TaskAdded(task))
            if owner is not None:
                view.apply(ClaimAdded(Claim(seq, task, owner, ClaimKind.CLAIM)))
        return view

    def after(self, heirs: Mapping[str, str]) -> Layout:
        return Layout(self.nodes, {**self.owners, **heirs})

    def load(self, node: str) -> int:
        return sum(owner == node for owner in self.owners.values())

    @property
    def receivers(self) -> list[NodeInfo]:
        return [node for node in self.nodes if may_receive(node)]

    @property
    def orphans(self) -> set[str]:
        """The tasks whose owner, if any, will not keep them."""
        keepers = {node.identity for node in self.nodes if not node.draining}
        return {task for task, owner in self.owners.items() if owner not in keepers}


plain = st.builds(lambda i: NodeInfo(NODES[i]), st.integers(0, 5))
limited = st.builds(
    NodeInfo,
    st.sampled_from(NODES),
    capacity=st.none() | st.integers(0, 8),
    draining=st.booleans(),
    frozen=st.booleans(),
    full=st.booleans(),
)


@st.composite
def layouts(draw: st.DrawFn, *, nodes: st.SearchStrategy[NodeInfo] = limited) -> Layout:
    there = draw(st.lists(nodes, min_size=1, max_size=6, unique_by=lambda node: node.identity))
    owner = st.sampled_from([None, GONE, *(node.identity for node in there)])
    owners = draw(st.lists(owner, max_size=30))
    return Layout(tuple(there), {f"t{i}": owner for i, owner in enumerate(owners)})


def targets(layout: Layout) -> dict[str, int]:
    """The fairest loads that keep every limit, found by dealing out tasks one by one; the fullest come first."""
    loads = {node.identity: layout.load(node.identity) for node in layout.receivers}
    caps = {
        node.identity: min(
            math.inf if node.capacity is None else node.capacity, loads[node.identity] if node.full else math.inf
        )
        for node in layout.receivers
    }
    fair = dict.fromkeys(loads, 0)
    for _ in range(sum(loads.values()) + len(layout.orphans)):
        open_nodes = [node for node in fair if fair[node] < caps[node]]
        if not open_nodes:
            break
        fair[min(open_nodes, key=lambda node: (fair[node], -loads[node], node))] += 1
    return fair


@given(layouts())
def test_as_even_as_limits_allow(layout: Layout) -> None:
    """Nodes end with the fairest loads there are; nobody gets more than its capacity, the full get nothing.

    Only what is too much for one node and finds no room anywhere stays where it is.
    """
    after = layout.after(plan(layout.view(), "x.0"))
    for node, share in targets(layout).items():
        assert share <= after.load(node) <= max(share, layout.load(node))
    if sum(targets(layout).values()) == sum(layout.load(n.identity) for n in layout.receivers) + len(layout.orphans):
        assert {node.identity: after.load(node.identity) for node in layout.receivers} == targets(layout)


@given(layouts(nodes=plain))
def test_spread_of_one(layout: Layout) -> None:
    """Among nodes without limits the loads differ by at most one, and every task has an owner."""
    after = layout.after(plan(layout.view(), "x.0"))
    loads = [after.load(node.identity) for node in after.nodes]
    assert max(loads) - min(loads) <= 1
    assert sum(loads) == len(layout.owners)


@given(layouts())
def test_fewest_moves(layout: Layout) -> None:
    """What moves is what has no lasting owner, and of each node what is more than its share; nothing else."""
    heirs = plan(layout.view(), "x.0")
    fair = targets(layout)
    surplus = sum(max(0, layout.load(node) - share) for node, share in fair.items())
    wanting = sum(max(0, share - layout.load(node)) for node, share in fair.items())
    assert len(heirs) == min(len(layout.orphans) + surplus, wanting)
    assert all(heir != layout.owners[task] for task, heir in heirs.items())


@given(layouts())
def test_draining_and_frozen_get_nothing(layout: Layout) -> None:
    """Heirs are nodes that take part; of a frozen node nothing is taken either."""
    heirs = plan(layout.view(), "x.0")
    assert set(heirs.values()) <= {node.identity for node in layout.receivers}
    frozen = {node.identity for node in layout.nodes if node.frozen and not node.draining}
    assert not [task for task in heirs if layout.owners[task] in frozen]


@given(layouts(), st.randoms(use_true_random=False))
def test_same_on_every_node(layout: Layout, rng: random.Random) -> None:
    """The plan depends neither on who makes it nor on the order in which the view came to be."""
    heirs = plan(layout.view(), NODES[0])
    assert heirs == plan(layout.view(rng), NODES[1])


@given(layouts())
def test_fixpoint(layout: Layout) -> None:
    """Once carried out, the plan has nothing more to say but of tasks that nobody has room for."""
    assert plan(layout.after(plan(layout.view(), "x.0")).view(), "x.0") == {}


@given(layouts())
def test_uneven_only_without_lasting_owner(layout: Layout) -> None:
    """Without `even` only tasks without a lasting owner are given out, as far as there is room."""
    heirs = plan(layout.view(), "x.0", even=False)
    assert set(heirs) <= layout.orphans
    after = layout.after(heirs)
    for node in layout.receivers:
        if after.load(node.identity) > layout.load(node.identity):
            assert not node.full
            assert node.capacity is None or after.load(node.identity) <= node.capacity


@given(layouts(nodes=plain), st.data())
def test_what_is_asked_for_counts_as_there(layout: Layout, data: st.DataObject) -> None:
    """Claims and bids on their way count exactly as they will when they are in the view (up to a fair share)."""
    me = layout.nodes[0].identity
    unclaimed = sorted(task for task, owner in layout.owners.items() if owner is None)
    others = sorted(task for task, owner in layout.owners.items() if owner not in (None, me))
    share = max(0, len(layout.owners) // len(layout.nodes) - layout.load(me))
    asked = data.draw(st.permutations([*unclaimed, *others]))[: data.draw(st.integers(0, share))]
    claims = [task for task in asked if task in unclaimed]
    bids = [task for task in asked if task in others]
    later = layout.view()
    for seq, (task, kind) in enumerate(
        [*((t, ClaimKind.CLAIM) for t in claims), *((t, ClaimKind.BID) for t in bids)], 100
    ):
        later.apply(ClaimAdded(Claim(seq, task, me, kind)))
    assert plan(layout.view(), me, pending_claims=claims, pending_bids=bids) == plan(later, "x.0")


@given(layouts(), st.data())
def test_task_with_heir_is_left_alone(layout: Layout, data: st.DataObject) -> None:
    """A task that a node able to take it has bid for counts for that node, and is not planned once more."""
    claimed = sorted(task for task, owner in layout.owners.items() if owner is not None)
    able = [node.identity for node in layout.receivers]
    view = layout.view()
    bids: dict[str, str] = {}
    if claimed and able:
        for seq, task in enumerate(data.draw(st.lists(st.sampled_from(claimed), unique=True)), 100):
            others = [node for node in able if node != layout.owners[task]]
            if others:
                bids[task] = data.draw(st.sampled_from(others))
                view.apply(ClaimAdded(Claim(seq, task, bids[task], ClaimKind.BID)))
    assert not set(plan(view, "x.0")) & set(bids)


def test_losing_claim_is_no_bid() -> None:
    """A claim that lost the race is about to go: it counts for nobody."""
    layout = Layout((NodeInfo("a.0"), NodeInfo("b.1")), {"t0": "a.0", "t1": "a.0"})
    view = layout.view()
    view.apply(ClaimAdded(Claim(9, "t0", "b.1", ClaimKind.CLAIM)))
    assert plan(view, "a.0") == {"t1": "b.1"}  # t0 is contested, and so not moved at present


def test_bid_for_task_without_lasting_owner() -> None:
    """A draining node's task is planned, unless a node that can take it has bid; a bid of a leaver is none."""
    nodes = (NodeInfo("a.0", draining=True), NodeInfo("b.1"), NodeInfo("c.2", draining=True))
    view = Layout(nodes, {"t0": "a.0", "t1": "a.0"}).view()
    view.apply(ClaimAdded(Claim(8, "t0", "b.1", ClaimKind.BID)))
    view.apply(ClaimAdded(Claim(9, "t1", "c.2", ClaimKind.BID)))
    assert plan(view, "b.1") == {"t1": "b.1"}
    assert plan(view, "b.1", pending_bids={"t1"}) == {}


def test_limited_nodes_leave_their_share_to_others() -> None:
    """Nodes that are limited to just their share of a round do not swallow the rest of the round."""
    nodes = (NodeInfo("a.0", capacity=2), NodeInfo("b.1", capacity=2), NodeInfo("c.2"))
    heirs = plan(Layout(nodes, {f"t{i}": None for i in range(8)}).view(), "a.0")
    assert Counter(heirs.values()) == {"a.0": 2, "b.1": 2, "c.2": 4}


def test_removed_task_and_tombstone() -> None:
    """A claim on a task that is gone needs no heir; a deleted one without an owner does: someone removes it."""
    view = ClusterView()
    view.apply(NodeAdded(NodeInfo("a.0")))
    view.apply(ClaimAdded(Claim(1, "ghost", GONE, ClaimKind.CLAIM)))
    view.apply(TaskAdded("t"))
    view.apply(TaskDeleted("t"))
    assert plan(view, "a.0") == {"t": "a.0"}


def test_refused_task_is_not_the_one_to_move() -> None:
    """A node that was refused a task tries for another one."""
    view = Layout((NodeInfo("a.0"), NodeInfo("b.1")), {"t0": "a.0", "t1": "a.0"}).view()
    (first,) = plan(view, "b.1")
    (second,) = plan(view, "b.1", refused={first})
    assert {first, second} == {"t0", "t1"}


def test_nobody_can_receive() -> None:
    """Without a node that takes part there is no plan."""
    assert plan(Layout((NodeInfo("a.0", frozen=True),), {"t": None}).view(), "a.0") == {}


@given(st.sets(st.sampled_from(NODES), min_size=2), st.text("abc0123456789", min_size=1))
def test_order_of_stepping_in_outlasts_a_leave(nodes: set[str], task: str) -> None:
    """Every node is in the order, and who leaves changes the order of nobody else."""
    order = affinity_order(task, nodes)
    assert sorted(order) == sorted(nodes)
    assert affinity_order(task, nodes - {order[0]}) == order[1:]


@pytest.mark.parametrize("count", [2, 5])
def test_affinity_spreads(count: int) -> None:
    """Each of several nodes is the first choice of its fair part of many tasks, within a fifth."""
    firsts = Counter(affinity_order(f"task-{i}", NODES[:count])[0] for i in range(2000))
    assert all(abs(firsts[node] - 2000 / count) < 2000 / count / 5 for node in NODES[:count])
