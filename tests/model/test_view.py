"""ClusterView: its indices agree with its claims and tasks after any events in any order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from metafora_trio import Claim, NodeInfo
from metafora_trio._model.view import (
    ClaimAdded,
    ClaimRemoved,
    NodeAdded,
    NodeRemoved,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
    ViewEvent,
)
from metafora_trio.contract import ClaimKind, ClusterView

TASKS = ("t1", "t2", "t10")
NODES = ("a.1", "a.2", "b.3")


class ViewMachine(RuleBasedStateMachine):
    """Compares a view with a model that keeps plain sets and computes everything from scratch.

    Events come in any order and may repeat. Claims may come out of sequence, as they do after a resync.
    """

    def __init__(self) -> None:
        super().__init__()
        self.view = ClusterView()
        self.tasks: dict[str, bool] = {}
        self.claims: set[Claim] = set()
        self.gone: set[Claim] = set()
        self.nodes: dict[str, NodeInfo] = {}
        self.orphaned: dict[str, Claim] = {}

    def apply(self, event: ViewEvent) -> None:
        self.view.apply(event)

    @rule(task=st.sampled_from(TASKS))
    def add_task(self, task: str) -> None:
        self.tasks.setdefault(task, False)
        self.apply(TaskAdded(task))

    @rule(task=st.sampled_from(TASKS))
    def delete_task(self, task: str) -> None:
        if task in self.tasks:
            self.tasks[task] = True
        self.apply(TaskDeleted(task))

    @rule(task=st.sampled_from(TASKS))
    def remove_task(self, task: str) -> None:
        if self.tasks.pop(task, None) is not None and (queue := self.queue(task)):
            self.orphaned[task] = queue[0]
        self.apply(TaskRemoved(task))

    @rule(
        task=st.sampled_from(TASKS),
        node=st.sampled_from(NODES),
        kind=st.sampled_from(ClaimKind),
        seq=st.integers(0, 30),
    )
    def add_claim(self, task: str, node: str, kind: ClaimKind, seq: int) -> None:
        taken = {claim.seq: claim for claim in self.claims | self.gone if claim.task == task}
        claim = taken.get(seq, Claim(seq, task, node, kind))  # the broker never gives a number twice
        self.claims.add(claim)
        self.gone.discard(claim)
        self.apply(ClaimAdded(claim))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def remove_claim(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(sorted(self.claims)))
        self.claims.remove(claim)
        self.gone.add(claim)
        if self.orphaned.get(claim.task) == claim:
            del self.orphaned[claim.task]
        self.apply(ClaimRemoved(claim))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def remove_claim_again(self, data: st.DataObject) -> None:
        self.apply(ClaimRemoved(data.draw(st.sampled_from(sorted(self.gone)))))

    @rule(identity=st.sampled_from(NODES), draining=st.booleans())
    def add_node(self, identity: str, draining: bool) -> None:
        self.nodes[identity] = NodeInfo(identity, draining=draining)
        self.apply(NodeAdded(self.nodes[identity]))

    @rule(identity=st.sampled_from(NODES))
    def remove_node(self, identity: str) -> None:
        self.nodes.pop(identity, None)
        self.apply(NodeRemoved(identity))

    def queue(self, task: str) -> list[Claim]:
        return sorted(claim for claim in self.claims if claim.task == task)

    @invariant()
    def queues(self) -> None:
        for task in TASKS:
            queue = self.queue(task)
            assert list(self.view.queue(task)) == queue
            assert self.view.head(task) == (queue[0] if queue else None)
            assert self.view.owner(task) == (queue[0].node if queue else None)
        assert sorted(self.view.claims()) == sorted(self.claims)
        assert set(self.view.claimed_tasks()) == {claim.task for claim in self.claims}

    @invariant()
    def claims_of_each_node(self) -> None:
        for node in NODES:
            own = {task: [claim for claim in self.queue(task) if claim.node == node] for task in TASKS}
            assert {task: list(claims) for task, claims in self.view.claims_of(node).items()} == {
                task: claims for task, claims in own.items() if claims
            }
            for task in TASKS:
                assert list(self.view.own_claims(task, node)) == own[task]
            assert self.view.load(node) == sum(map(bool, own.values()))
            heads = {task for task in TASKS if (queue := self.queue(task)) and queue[0].node == node}
            assert set(self.view.owned_by(node)) == heads
        assert set(self.view.claimants()) == {claim.node for task in TASKS for claim in self.queue(task)}
        assert set(self.view.owners()) == {queue[0].node for queue in map(self.queue, TASKS) if queue}

    @invariant()
    def tasks_and_nodes(self) -> None:
        claimed = {claim.task for claim in self.claims}
        assert self.view.tasks == self.tasks
        assert set(self.view.unclaimed) == self.tasks.keys() - claimed
        assert {task for task in TASKS if self.view.deleted(task)} == {
            t for t, deleted in self.tasks.items() if deleted
        }
        assert set(self.view.tombstones) == {t for t, deleted in self.tasks.items() if deleted}
        assert self.view.nodes == self.nodes
        assert self.view.orphaned == self.orphaned
        assert set(self.view.contested) == {task for task in TASKS if len(self.queue(task)) > 1}

    @invariant()
    def no_empty_entries(self) -> None:
        """No index keeps an empty entry. Otherwise a view that follows a cluster for months would grow."""
        for index in (self.view._queues, self.view._claims, self.view._owned):
            assert all(index.values())
        assert all(all(claims) for of_node in self.view._claims.values() for claims in of_node.values())


TestView = ViewMachine.TestCase


def test_unclaimed_tasks_longest_unclaimed_first() -> None:
    view = ClusterView()
    claim = Claim(1, "t1", "a.1", ClaimKind.CLAIM)
    for event in (TaskAdded("t1"), TaskAdded("t2"), ClaimAdded(claim), ClaimRemoved(claim)):
        view.apply(event)
    assert list(view.unclaimed) == ["t2", "t1"]


def test_the_next_in_the_queue_becomes_the_owner() -> None:
    view = ClusterView()
    claims = [Claim(seq, "t1", node, ClaimKind.BID) for seq, node in enumerate(NODES)]
    for claim in claims:
        view.apply(ClaimAdded(claim))
    for claim in claims:
        assert (view.owner("t1"), list(view.owners())) == (claim.node, [claim.node])
        view.apply(ClaimRemoved(claim))
    assert list(view.owners()) == []
