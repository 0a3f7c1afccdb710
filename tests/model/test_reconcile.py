"""Reconcile: the rules for one task, each by itself, and all together in searched schedules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import Claim, NodeInfo, StopReason
from metafora_trio._model import reconcile as do
from metafora_trio._model.reconcile import RunState, may_open, reconcile
from metafora_trio._model.view import (
    ClaimAdded,
    ClaimRemoved,
    NodeAdded,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
    ViewEvent,
)
from metafora_trio.contract import ClaimKind, ClusterView
from tests.support import claims_model
from tests.support.claims_model import ModelNode
from tests.support.claims_world import World

C, B = ClaimKind.CLAIM, ClaimKind.BID
MINE, OTHER, THIRD = (Claim(i, "t", node, C) for i, node in ((1, "me.1"), (2, "other.2"), (3, "third.3")))
MY_BID, BID, THIRD_BID = (Claim(i, "t", node, B) for i, node in ((5, "me.1"), (6, "other.2"), (7, "third.3")))
TASK, GONE, TOMBSTONE = TaskAdded("t"), TaskRemoved("t"), TaskDeleted("t")


@dataclass
class Run:
    state: RunState
    claim: Claim = MINE
    give_back: bool = False


@dataclass
class Situation:
    """A situation with two nodes, `me.1` and `other.2`, in the state that a test sets."""

    events: list[ViewEvent]
    draining: bool = False
    alone: bool = False
    leaving: tuple[Claim, ...] = ()
    consent: bool = False
    wanted: bool = True
    refused: bool = False
    me: str = "me.1"
    view: ClusterView = field(default_factory=ClusterView)

    def __post_init__(self) -> None:
        for event in (NodeAdded(NodeInfo("me.1")), NodeAdded(NodeInfo("other.2")), *self.events):
            self.view.apply(event)

    def is_leaving(self, claim: Claim) -> bool:
        return claim in self.leaving

    def consents(self, task: str, heir: str) -> bool:
        assert task == "t"
        return self.consent

    def wants(self, task: str) -> bool:
        return self.wanted

    def refuses(self, task: str) -> bool:
        return self.refused


def at(*events: ViewEvent | Claim, **situation: object) -> Situation:
    applied = [ClaimAdded(event) if isinstance(event, Claim) else event for event in events]
    return Situation(applied, **situation)  # type: ignore[arg-type]


RUNNING, CLOSING, CLOSED, FINISHED, OPENING = (
    Run(state) for state in (RunState.RUNNING, RunState.CLOSING, RunState.CLOSED, RunState.FINISHED, RunState.OPENING)
)
GIVEN_BACK = Run(RunState.CLOSED, give_back=True)
RESUBMITTED = (TASK, MINE, GONE, TASK)  # removed by hand and submitted again while it runs here
OTHER_LEAVES = NodeAdded(NodeInfo("other.2", draining=True))

WITHOUT_RUN = {
    "no claim here": (at(TASK), []),
    "not ours": (at(TASK, OTHER), []),
    "ours": (at(TASK, MINE), [do.Start(MINE)]),
    "ours, with a bid behind": (at(TASK, MINE, BID), [do.Start(MINE)]),
    "a bid that has become the head": (at(TASK, MY_BID), [do.Start(MY_BID)]),
    "being given up": (at(TASK, MINE, leaving=(MINE,)), []),
    "task gone": (at(MINE), [do.Release(MINE)]),
    "deleted": (at(TASK, TOMBSTONE, MINE), [do.Finish(MINE, deleted=True)]),
    "draining": (at(TASK, MINE, draining=True), [do.Release(MINE)]),
    "refused": (at(TASK, MINE, refused=True), [do.Release(MINE)]),
    "refused, with a bid behind": (at(TASK, MINE, BID, refused=True), [do.Release(MINE)]),
    "refused, deleted": (at(TASK, TOMBSTONE, MINE, refused=True), [do.Finish(MINE, deleted=True)]),
    "deleted while draining": (at(TASK, TOMBSTONE, MINE, draining=True), [do.Finish(MINE, deleted=True)]),
    "a lost attempt": (at(TASK, Claim(0, "t", "other.2", C), MINE), [do.Release(MINE)]),
    "a lost attempt, being given up": (at(TASK, Claim(0, "t", "other.2", C), MINE, leaving=(MINE,)), []),
    "two attempts, both lost": (
        at(TASK, Claim(0, "t", "other.2", C), MINE, Claim(4, "t", "me.1", C)),
        [do.Release(MINE), do.Release(Claim(4, "t", "me.1", C))],
    ),
    "a claim and a bid, the claim won": (at(TASK, MINE, MY_BID), [do.Start(MINE), do.Release(MY_BID)]),
    "a bid, wanted": (at(TASK, OTHER, MY_BID), []),
    "a bid, not wanted": (at(TASK, OTHER, MY_BID, wanted=False), [do.Withdraw(MY_BID, OTHER)]),
    "a bid while draining": (at(TASK, OTHER, MY_BID, draining=True), [do.Release(MY_BID)]),
    "a bid for a task that is gone": (at(OTHER, MY_BID), [do.Release(MY_BID)]),
    "a bid behind an attempt of ours": (
        at(TASK, Claim(0, "t", "other.2", C), MINE, MY_BID),
        [do.Release(MINE), do.Release(MY_BID)],
    ),
}
WITH_RUN = {
    "opening": (OPENING, at(TASK, MINE), []),
    "opening, lost": (OPENING, at(TASK, Claim(0, "t", "other.2", C), MINE), [do.Release(MINE)]),
    "running": (RUNNING, at(TASK, MINE), []),
    "running, claim gone": (RUNNING, at(TASK), [do.Stop(StopReason.CLAIM_LOST)]),
    "running, another owns": (RUNNING, at(TASK, OTHER), [do.Stop(StopReason.CLAIM_LOST)]),
    "running, being given up": (RUNNING, at(TASK, MINE, leaving=(MINE,)), [do.Stop(StopReason.CLAIM_LOST)]),
    "running, deleted": (RUNNING, at(TASK, TOMBSTONE, MINE), [do.Stop(StopReason.DELETED)]),
    "running, task gone": (RUNNING, at(MINE), [do.Stop(StopReason.DELETED)]),
    "running, another task of this id": (RUNNING, at(*RESUBMITTED), [do.Stop(StopReason.DELETED)]),
    "running, a bid, no consent": (RUNNING, at(TASK, MINE, BID), []),
    "running, a bid": (RUNNING, at(TASK, MINE, BID, consent=True), [do.Stop(StopReason.HANDED_OVER, "other.2")]),
    "running, a lost attempt is no bid": (RUNNING, at(TASK, MINE, OTHER, consent=True), []),
    "running, a bid behind a lost attempt": (RUNNING, at(TASK, MINE, OTHER, THIRD_BID, consent=True), []),
    "running, a bid of a draining node": (RUNNING, at(TASK, MINE, BID, OTHER_LEAVES, consent=True), []),
    "running, a bid of a node that has left": (RUNNING, at(TASK, MINE, THIRD_BID, consent=True), []),
    "running, a bid of our own too": (
        RUNNING,
        at(TASK, MINE, MY_BID, BID, consent=True),
        [do.Stop(StopReason.HANDED_OVER, "other.2"), do.Release(MY_BID)],
    ),
    "draining, no bid yet": (RUNNING, at(TASK, MINE, draining=True), []),
    "draining, a bid": (RUNNING, at(TASK, MINE, BID, draining=True), [do.Stop(StopReason.DRAINED, "other.2")]),
    "draining, no other node": (RUNNING, at(TASK, MINE, draining=True, alone=True), [do.Stop(StopReason.DRAINED)]),
    "closing": (CLOSING, at(TASK, MINE, BID), []),
    "closing, claim gone": (CLOSING, at(TASK, OTHER), [do.Stop(StopReason.CLAIM_LOST)]),
    "closed, the heir waits": (CLOSED, at(TASK, MINE, BID), [do.HandOver(MINE, BID)]),
    "closed, any claim may inherit": (CLOSED, at(TASK, MINE, OTHER), [do.HandOver(MINE, OTHER)]),
    "closed, the heir has left": (CLOSED, at(TASK, MINE), [do.Forget()]),
    "closed, being given up": (CLOSED, at(TASK, MINE, BID, leaving=(MINE,)), []),
    "closed, claim gone": (CLOSED, at(TASK, OTHER), [do.Forget()]),
    "closed, task gone": (CLOSED, at(MINE, BID), [do.Release(MINE)]),
    "closed, another task of this id": (CLOSED, at(*RESUBMITTED), [do.Release(MINE)]),
    "closed, task gone, the bid being given up": (CLOSED, at(MINE, MY_BID, leaving=(MY_BID,)), [do.Release(MINE)]),
    "closed, deleted": (CLOSED, at(TASK, TOMBSTONE, MINE, BID), [do.Finish(MINE, deleted=True)]),
    "closed, given back": (GIVEN_BACK, at(TASK, MINE, BID), [do.Release(MINE)]),
    "closed, draining, the heir waits": (CLOSED, at(TASK, MINE, BID, draining=True), [do.HandOver(MINE, BID)]),
    "closed, draining, no other node": (CLOSED, at(TASK, MINE, draining=True, alone=True), [do.Release(MINE)]),
    "closed, draining, the heir has left": (CLOSED, at(TASK, MINE, draining=True), [do.Forget()]),
    "finished": (FINISHED, at(TASK, MINE, BID), [do.Finish(MINE, deleted=False)]),
    "finished, reported": (FINISHED, at(TASK, MINE, leaving=(MINE,)), []),
    "finished, then deleted": (FINISHED, at(TASK, TOMBSTONE, MINE), [do.Finish(MINE, deleted=True)]),
    "finished, accepted": (FINISHED, at(), [do.Forget()]),
    "finished, another owns": (FINISHED, at(TASK, OTHER), [do.Forget()]),
    "finished, another task of this id": (FINISHED, at(*RESUBMITTED), [do.Discard()]),
    "finished, task gone": (FINISHED, at(MINE), [do.Discard()]),
}


@pytest.mark.parametrize("case", WITHOUT_RUN)
def test_without_a_run(case: str) -> None:
    """If the task does not run here, start it if this node owns it, and give up claims that cannot own it."""
    situation, expected = WITHOUT_RUN[case]
    assert list(reconcile("t", situation, None)) == expected


@pytest.mark.parametrize("case", WITH_RUN)
def test_with_a_run(case: str) -> None:
    """If the task runs here, stop it if necessary; once its scope has closed, report its end or give it up."""
    run, situation, expected = WITH_RUN[case]
    assert list(reconcile("t", situation, run)) == expected


@pytest.mark.parametrize(
    "situation, expected",
    [
        (at(TASK, MINE), True),
        (at(TASK, MINE, BID), True),
        (at(TASK, OTHER), False),
        (at(TASK, MINE, leaving=(MINE,)), False),
        (at(MINE), False),
        (at(TASK, TOMBSTONE, MINE), False),
        (at(TASK, MINE, draining=True), False),
        (at(TASK, MINE, refused=True), False),
    ],
)
def test_may_open(situation: Situation, expected: bool) -> None:
    """A scope opens only for the owner of a task that exists and has no tombstone, on a node that does not drain and
    does not refuse the task."""
    assert may_open("t", MINE, situation) is expected


def test_new_claim_after_one_that_outlived_its_task() -> None:
    """Once the claim that outlived its task is gone, a new claim of this node starts the new task."""
    new = Claim(9, "t", "me.1", C)
    situation = at(*RESUBMITTED, ClaimRemoved(MINE), new)
    assert list(reconcile("t", situation, None)) == [do.Start(new)]


# ---- all rules together

FAULTS = [
    {},
    {"crash": 1},
    {"drain": 3, "submit": 1},
    {"disconnect": 2, "submit": 1},
    {"delete": 1, "submit": 2, "disconnect": 1},
    {"crash": 1, "drain": 2, "disconnect": 2, "delete": 2, "submit": 3},
]
SIZES = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 4)]


@given(
    size=st.sampled_from(SIZES),
    faults=st.sampled_from(FAULTS),
    endings=st.integers(0, 3),
    choices=st.lists(st.integers(0, 255), max_size=120),
    seed=st.integers(0, 2**32),
)
def test_any_schedule(
    size: tuple[int, int], faults: dict[str, int], endings: int, choices: list[int], seed: int
) -> None:
    """No schedule breaks an invariant, and the cluster comes to rest with every task running once."""
    remaining = iter(choices)
    then = random.Random(seed)  # makes the choices after the drawn ones, while the cluster settles
    world = World(nodes=size[0], tasks=size[1], faults=faults, endings=endings)
    world.run(lambda count: next(remaining, then.randrange(256)) % count, steps=len(choices))


def explore(seeds: int) -> str | None:
    """Search random schedules. Returns the message of the first violation, or None."""
    for seed in range(seeds):
        choose = random.Random(seed)
        (nodes, tasks), faults = choose.choice(SIZES), choose.choice(FAULTS)
        try:
            world = World(nodes=nodes, tasks=tasks, faults=faults, endings=choose.randrange(3))
            world.run(choose.randrange, steps=choose.randrange(150))
        except AssertionError as error:
            return str(error)
    return None


def test_many_schedules() -> None:
    """Fixed random schedules break no invariant. There are more of them than Hypothesis can try in the same time."""
    assert explore(700) is None


Rule = Callable[..., Iterator[do.Action]]


def without(rule: str, change: Callable[[do.Action, do.Run], do.Action | None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a patch that breaks one rule of `reconcile`: `change` replaces or drops each action that it yields."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original: Rule = getattr(do, rule)

        def changed(task: str, situation: do.NodeSituation, run: do.Run) -> Iterator[do.Action]:
            actions = (change(action, run) for action in original(task, situation, run))
            return (action for action in actions if action is not None)

        monkeypatch.setattr(do, rule, changed)

    return patch


def any_claim_is_a_bid(task: str, at: do.NodeSituation) -> Claim | None:
    return next((c for c in at.view.queue(task) if c.node != at.me and c.node in at.view.nodes), None)


def losers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    original = do._surplus

    def changed(task: str, at: do.NodeSituation) -> Iterator[do.Action]:
        stays = (C, at.view.own_claims(task, at.me)[0])
        for action in original(task, at):
            if not isinstance(action, do.Release) or (action.claim.kind, action.claim) != stays:
                yield action

    monkeypatch.setattr(do, "_surplus", changed)


def always(_: object, *args: object) -> bool:
    return True


MUTANTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "claim kind ignored": ("S5", lambda patch: patch.setattr(do, "heir_of", any_claim_is_a_bid)),
    "losing attempts are kept": ("contested for ever", losers_stay),
    "released before the scope has closed": (
        "S5",
        without("_running", lambda action, run: do.Release(run.claim)),
    ),
    "handed over unconditionally": (
        "S5",
        without("_closed", lambda action, run: do.Release(run.claim) if isinstance(action, do.HandOver) else action),
    ),
    "started although leaving": (
        "S4",
        lambda patch: patch.setattr(ModelNode, "is_leaving", lambda node, claim: False),
    ),
    "not checked again after the read": ("leaves", lambda patch: patch.setattr(claims_model, "may_open", always)),
    "tombstone ignored at the end": (
        "nothing settles",
        without("_finished", lambda action, run: do.Finish(run.claim, deleted=False)),
    ),
    "tombstone ignored while running": (
        "deleted",
        without("_running", lambda a, run: None if a == do.Stop(StopReason.DELETED) else a),
    ),
    "tombstone ignored when claimed": (
        "nothing settles",
        without("_without_run", lambda a, first: do.Start(a.claim) if isinstance(a, do.Finish) else a),
    ),
    "not stopped when no other node is left": (
        "only leave",
        without("_running", lambda action, run: None if action == do.Stop(StopReason.DRAINED) else action),
    ),
    "bids outlive their reason": ("contested for ever", lambda patch: patch.setattr(ModelNode, "tick", always)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_search_finds_each_mutant(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If any one rule is broken, the same search finds a violation, so each rule is needed."""
    sign, break_it = MUTANTS[mutant]
    break_it(monkeypatch)
    found = explore(2000)
    assert found is not None
    assert sign in found


def test_actions_are_decided_one_at_a_time() -> None:
    """Each action is carried out before the next is decided, so a claim is not given up twice."""
    situation = at(MINE, MY_BID)
    given_up = []
    for action in itertools.islice(reconcile("t", situation, CLOSED), 5):
        assert isinstance(action, do.Release)
        given_up.append(action.claim)
        situation.leaving = tuple(given_up)
    assert given_up == [MINE, MY_BID]
