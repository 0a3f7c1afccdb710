"""Plan: loads that differ by at most one, by the fewest moves possible, the same on every node."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import Claim, NodeInfo
from metafora_trio._model.plan import RemovalOrder, affinity_order, may_receive, plan
from metafora_trio._model.view import ClaimAdded, NodeAdded, TaskAdded, TaskDeleted
from metafora_trio.contract import ClaimKind, ClusterView

NODES = [f"n{i}.{i}" for i in range(6)]
GONE = "gone.9"  # has claims, but its node has left


@dataclass(frozen=True)
class Layout:
    """A cluster drawn by Hypothesis: its nodes, and the owner of each task (None: unclaimed)."""

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
    def unowned(self) -> set[str]:
        """The tasks without a lasting owner: unclaimed, or owned by a node that drains or has left."""
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
    live = draw(st.lists(nodes, min_size=1, max_size=6, unique_by=lambda node: node.identity))
    owner = st.sampled_from([None, GONE, *(node.identity for node in live)])
    owners = draw(st.lists(owner, max_size=30))
    return Layout(tuple(live), {f"t{i}": owner for i, owner in enumerate(owners)})


def targets(layout: Layout) -> dict[str, int]:
    """Return the most even loads within all limits. Deals tasks out one by one; among equals, the most loaded first."""
    loads = {node.identity: layout.load(node.identity) for node in layout.receivers}
    caps = {
        node.identity: min(
            math.inf if node.capacity is None else node.capacity, loads[node.identity] if node.full else math.inf
        )
        for node in layout.receivers
    }
    fair = dict.fromkeys(loads, 0)
    for _ in range(sum(loads.values()) + len(layout.unowned)):
        open_nodes = [node for node in fair if fair[node] < caps[node]]
        if not open_nodes:
            break
        fair[min(open_nodes, key=lambda node: (fair[node], -loads[node], node))] += 1
    return fair


@given(layouts())
def test_as_even_as_limits_allow(layout: Layout) -> None:
    """The plan makes loads as even as the limits allow: no node gets more than its capacity, a full node gets nothing.

    A node keeps more than its share only if no other node can take the surplus.
    """
    after = layout.after(plan(layout.view(), "x.0"))
    for node, share in targets(layout).items():
        assert share <= after.load(node) <= max(share, layout.load(node))
    if sum(targets(layout).values()) == sum(layout.load(n.identity) for n in layout.receivers) + len(layout.unowned):
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
    """The plan moves the tasks without a lasting owner and the surplus of each node, and no other task."""
    heirs = plan(layout.view(), "x.0")
    fair = targets(layout)
    surplus = sum(max(0, layout.load(node) - share) for node, share in fair.items())
    wanting = sum(max(0, share - layout.load(node)) for node, share in fair.items())
    assert len(heirs) == min(len(layout.unowned) + surplus, wanting)
    assert all(heir != layout.owners[task] for task, heir in heirs.items())


@given(layouts())
def test_draining_and_frozen_get_nothing(layout: Layout) -> None:
    """No heir is draining or frozen, and no task of a frozen node moves."""
    heirs = plan(layout.view(), "x.0")
    assert set(heirs.values()) <= {node.identity for node in layout.receivers}
    frozen = {node.identity for node in layout.nodes if node.frozen and not node.draining}
    assert not [task for task in heirs if layout.owners[task] in frozen]


@given(layouts(), st.randoms(use_true_random=False))
def test_same_on_every_node(layout: Layout, rng: random.Random) -> None:
    """The plan depends neither on the node that makes it nor on the order of the events in its view."""
    heirs = plan(layout.view(), NODES[0])
    assert heirs == plan(layout.view(rng), NODES[1])


@given(layouts())
def test_fixpoint(layout: Layout) -> None:
    """Once the plan is carried out, the next plan is empty."""
    assert plan(layout.after(plan(layout.view(), "x.0")).view(), "x.0") == {}


@given(layouts())
def test_without_even_only_unowned_tasks_move(layout: Layout) -> None:
    """With `even=False`, the plan moves only tasks without a lasting owner, within capacities."""
    heirs = plan(layout.view(), "x.0", even=False)
    assert set(heirs) <= layout.unowned
    after = layout.after(heirs)
    for node in layout.receivers:
        if after.load(node.identity) > layout.load(node.identity):
            assert not node.full
            assert node.capacity is None or after.load(node.identity) <= node.capacity


@given(layouts(nodes=plain), st.data())
def test_pending_requests_count_like_claims(layout: Layout, data: st.DataObject) -> None:
    """Pending claims and bids, up to a fair share, count exactly as they do once they are in the view."""
    me = layout.nodes[0].identity
    unclaimed = sorted(task for task, owner in layout.owners.items() if owner is None)
    others = sorted(task for task, owner in layout.owners.items() if owner not in (None, me))
    share = max(0, len(layout.owners) // len(layout.nodes) - layout.load(me))
    requests = data.draw(st.permutations([*unclaimed, *others]))[: data.draw(st.integers(0, share))]
    claims = [task for task in requests if task in unclaimed]
    bids = [task for task in requests if task in others]
    later = layout.view()
    for seq, (task, kind) in enumerate(
        [*((t, ClaimKind.CLAIM) for t in claims), *((t, ClaimKind.BID) for t in bids)], 100
    ):
        later.apply(ClaimAdded(Claim(seq, task, me, kind)))
    assert plan(layout.view(), me, pending_claims=claims, pending_bids=bids) == plan(later, "x.0")


@given(layouts(), st.data())
def test_task_with_heir_is_left_alone(layout: Layout, data: st.DataObject) -> None:
    """If a node that can take a task has bid for it, the task counts for that node and gets no other heir."""
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


def test_losing_claim_is_not_a_bid() -> None:
    """A claim that lost a race counts for no node, because it will soon be removed."""
    layout = Layout((NodeInfo("a.0"), NodeInfo("b.1")), {"t0": "a.0", "t1": "a.0"})
    view = layout.view()
    view.apply(ClaimAdded(Claim(9, "t0", "b.1", ClaimKind.CLAIM)))
    assert plan(view, "a.0") == {"t1": "b.1"}  # t0 is contested, so it does not move now


def test_bid_for_task_without_lasting_owner() -> None:
    """A draining node's task gets an heir, unless a node that can take it has bid; a draining node's bid is ignored."""
    nodes = (NodeInfo("a.0", draining=True), NodeInfo("b.1"), NodeInfo("c.2", draining=True))
    view = Layout(nodes, {"t0": "a.0", "t1": "a.0"}).view()
    view.apply(ClaimAdded(Claim(8, "t0", "b.1", ClaimKind.BID)))
    view.apply(ClaimAdded(Claim(9, "t1", "c.2", ClaimKind.BID)))
    assert plan(view, "b.1") == {"t1": "b.1"}
    assert plan(view, "b.1", pending_bids={"t1"}) == {}


def test_limited_nodes_leave_their_share_to_others() -> None:
    """A node whose capacity is exactly the even share takes none of the remainder, which goes to other nodes."""
    nodes = (NodeInfo("a.0", capacity=2), NodeInfo("b.1", capacity=2), NodeInfo("c.2"))
    heirs = plan(Layout(nodes, {f"t{i}": None for i in range(8)}).view(), "a.0")
    assert Counter(heirs.values()) == {"a.0": 2, "b.1": 2, "c.2": 4}


def test_removed_task() -> None:
    """A claim on a removed task needs no heir."""
    view = ClusterView()
    view.apply(NodeAdded(NodeInfo("a.0")))
    view.apply(ClaimAdded(Claim(1, "ghost", GONE, ClaimKind.CLAIM)))
    assert plan(view, "a.0") == {}


@given(layouts(), st.data())
def test_deleted_tasks_are_no_load(layout: Layout, data: st.DataObject) -> None:
    """The plan is the same as if the deleted tasks did not exist, even if nodes have claimed or bid for them."""
    tombstones = data.draw(st.sets(st.sampled_from(sorted(layout.owners)))) if layout.owners else set()
    view = layout.view()
    for seq, task in enumerate(sorted(tombstones), 100):
        view.apply(TaskDeleted(task))
        if layout.owners[task] is not None:
            view.apply(ClaimAdded(Claim(seq, task, layout.nodes[0].identity, ClaimKind.BID)))
    rest = Layout(layout.nodes, {task: owner for task, owner in layout.owners.items() if task not in tombstones})
    assert plan(view, "x.0") == plan(rest.view(), "x.0")


@given(layouts(), st.text("abc0123456789", min_size=1))
def test_removal_order(layout: Layout, task: str) -> None:
    """Every live node that does not drain gets its turn: first those that may receive tasks, then frozen ones."""
    order = RemovalOrder(layout.nodes)
    frozen = {node.identity: node.frozen for node in layout.nodes if not node.draining}
    turns = [order.node_at(task, turn) for turn in range(len(frozen))]
    assert sorted(map(str, turns)) == sorted(frozen)
    assert [frozen[str(node)] for node in turns] == sorted(frozen.values())
    assert order.node_at(task, len(turns)) == (turns[0] if turns else None)
    able = [node.identity for node in layout.receivers]
    assert turns[: len(able)] == affinity_order(task, able)


def test_no_node_removes_anything_without_nodes() -> None:
    assert RemovalOrder(()).node_at("t", 0) is None


def test_refused_task_does_not_move() -> None:
    """A task in `refused` stays with its owner, and another task of that owner moves instead."""
    view = Layout((NodeInfo("a.0"), NodeInfo("b.1")), {"t0": "a.0", "t1": "a.0"}).view()
    (first,) = plan(view, "b.1")
    (second,) = plan(view, "b.1", refused={first})
    assert {first, second} == {"t0", "t1"}


@given(layouts(), st.data())
def test_held_back_is_like_full(layout: Layout, data: st.DataObject) -> None:
    """A node that is held back keeps what it has and gets nothing, exactly as if it had announced that it is full."""
    held = data.draw(st.sets(st.sampled_from([node.identity for node in layout.nodes])))
    full = tuple(replace(node, full=node.full or node.identity in held) for node in layout.nodes)
    heirs = plan(layout.view(), "x.0", held_back=held)
    assert heirs == plan(Layout(full, layout.owners).view(), "x.0")
    assert not set(heirs.values()) & held


def test_no_node_can_receive() -> None:
    """If no node can receive tasks, the plan is empty."""
    assert plan(Layout((NodeInfo("a.0", frozen=True),), {"t": None}).view(), "a.0") == {}


@given(st.sets(st.sampled_from(NODES), min_size=2), st.text("abc0123456789", min_size=1))
def test_affinity_order_without_a_node(nodes: set[str], task: str) -> None:
    """The order includes every node. If a node leaves, the order of the others stays the same."""
    order = affinity_order(task, nodes)
    assert sorted(order) == sorted(nodes)
    assert affinity_order(task, nodes - {order[0]}) == order[1:]


@pytest.mark.parametrize("count", [2, 5])
def test_affinity_spreads(count: int) -> None:
    """Each node is the first choice of an equal part of many tasks, within 20 %."""
    firsts = Counter(affinity_order(f"task-{i}", NODES[:count])[0] for i in range(2000))
    assert all(abs(firsts[node] - 2000 / count) < 2000 / count / 5 for node in NODES[:count])
