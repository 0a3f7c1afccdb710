"""Reconcile: a pure function that decides the next actions for one task, from the view and the task's run here.

It is level-triggered: call it whenever something about the task may have changed. It compares the desired state with
the actual one and yields the actions that fix the difference. An unnecessary call does no harm.

The rules are those of the protocol. Exhaustive search of a model showed that each is needed:

* A scope opens only under a claim that is the head of the queue and is not being given up, for a task that exists and
  has no tombstone, on a node that does not drain.
* No claim is given up before the scope has closed.
* A losing claim is not a bid: only a bid is a request for a handover.
* A bid is withdrawn, and a task handed over, only on condition that the other node's claim still exists. Exactly one of
  the two happens, so a task is never without an owner in between.
* Only the owner reports an end, for the task that it ran. The task is removed before the claim, all or nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .claim import Claim, ClaimKind
from .state import StopReason
from .view import ClusterView

__all__ = [
    "Action",
    "Discard",
    "Finish",
    "Forget",
    "HandOver",
    "NodeSituation",
    "Release",
    "Run",
    "RunState",
    "Start",
    "Stop",
    "Withdraw",
    "heir_of",
    "may_open",
    "reconcile",
]


class RunState(enum.Enum):
    """The states of a run, in order."""

    OPENING = "opening"
    """The task is being read; nothing runs yet."""
    RUNNING = "running"
    CLOSING = "closing"
    """Told to stop; the scope is still open."""
    CLOSED = "closed"
    """The scope has closed, and there is no end to report."""
    FINISHED = "finished"
    """The scope has closed, and there is an end to report."""


class Run(Protocol):
    """The part of a run that `reconcile` needs."""

    @property
    def state(self) -> RunState: ...

    @property
    def claim(self) -> Claim:
        """The claim under which the scope opens."""
        ...

    @property
    def give_back(self) -> bool:
        """True if the task is to be given to any node, with or without an heir."""
        ...


class NodeSituation(Protocol):
    """The state of the node, as far as `reconcile` needs it."""

    @property
    def view(self) -> ClusterView: ...

    @property
    def me(self) -> str:
        """This session's identity."""
        ...

    @property
    def draining(self) -> bool: ...

    @property
    def alone(self) -> bool:
        """True if no other node can take tasks, or the time to wait for heirs in a drain is over."""
        ...

    def is_leaving(self, claim: Claim) -> bool: ...

    def consents(self, task: str, heir: str) -> bool:
        """Return whether to hand the running task over to the heir."""
        ...

    def wants(self, task: str) -> bool:
        """Return whether this node's bid for the task is still justified."""
        ...

    def refuses(self, task: str) -> bool:
        """Return whether this node must not start the task now, although it may own it."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """Read the task, check again that it may start, and open its scope."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell the run to stop."""

    reason: StopReason
    heir: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Give up a claim unconditionally."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Give up a bid if the head claim still exists."""

    claim: Claim
    head: Claim


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give up a claim if the heir's claim still exists."""

    claim: Claim
    heir: Claim


@dataclass(frozen=True, slots=True)
class Finish:
    """Report the end. If `deleted`, a client has deleted the task, and no state record is left."""

    claim: Claim
    deleted: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop the end that the run has to report: this node may no longer end the task."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Forget the run, then reconcile the task again."""


Action = Start | Stop | Release | Withdraw | HandOver | Finish | Discard | Forget


def may_open(task: str, claim: Claim, at: NodeSituation) -> bool:
    """Return whether the view allows a scope to open under `claim`. The caller also checks the clock."""
    view = at.view
    return (
        view.head(task) == claim
        and not at.is_leaving(claim)
        and task in view.tasks
        and not view.deleted(task)
        and not at.draining
        and not at.refuses(task)
    )


def heir_of(task: str, at: NodeSituation) -> Claim | None:
    """Return the first claim of another node in the queue, or None unless it is a bid of a node that does not drain."""
    for claim in at.view.queue(task):
        if claim.node != at.me:
            node = at.view.nodes.get(claim.node)
            if claim.kind is ClaimKind.BID and node is not None and not node.draining:
                return claim
            return None
    return None


def reconcile(task: str, at: NodeSituation, run: Run | None) -> Iterator[Action]:
    """Yield the actions that a task needs now. Call it only while the view is current.

    Args:
        task: its id.
        at: the view and this node's state.
        run: the task's run on this node, or None.

    Yields:
        The actions, in order. Carry each out before asking for the next.
    """
    own = at.view.own_claims(task, at.me)
    if run is None:
        if own:
            yield from _without_run(task, at, own[0])
    elif run.state is RunState.RUNNING:
        yield from _running(task, at, run)
    elif run.state is RunState.CLOSING:
        if run.claim != at.view.head(task):
            yield Stop(StopReason.CLAIM_LOST)  # ends any `grace`
    elif run.state is RunState.CLOSED:
        yield from _closed(task, at, run)
    elif run.state is RunState.FINISHED:
        yield from _finished(task, at, run)
    if len(own) > 1 or (own and own[0] != at.view.head(task)):
        yield from _surplus(task, at)


def _without_run(task: str, at: NodeSituation, first: Claim) -> Iterator[Action]:
    view = at.view
    if first != view.head(task) or at.is_leaving(first):
        return
    if task not in view.tasks or (at.draining and not view.deleted(task)):
        yield Release(first)
    elif view.deleted(task):
        yield Finish(first, deleted=True)
    elif at.refuses(task):
        yield Release(first)
    else:
        yield Start(first)


def _surplus(task: str, at: NodeSituation) -> Iterator[Action]:
    """Clean up this node's claims that do not own the task: attempts that lost, and bids no longer wanted."""
    view, head = at.view, at.view.head(task)
    own = tuple(view.own_claims(task, at.me))
    for claim in own:
        if claim == head or at.is_leaving(claim):
            continue
        if claim.kind is ClaimKind.CLAIM or claim != own[0] or at.draining or task not in view.tasks:
            yield Release(claim)
        elif head is not None and not at.wants(task):
            yield Withdraw(claim, head)


def _is_ours(task: str, at: NodeSituation, run: Run) -> bool:
    """Return whether the run's claim owns the same task for which the run began, not one submitted again since."""
    return at.view.head(task) == run.claim and task in at.view.tasks and at.view.orphaned.get(task) != run.claim


def _running(task: str, at: NodeSituation, run: Run) -> Iterator[Action]:
    view = at.view
    if view.head(task) != run.claim or at.is_leaving(run.claim):
        yield Stop(StopReason.CLAIM_LOST)
    elif view.deleted(task) or not _is_ours(task, at, run):
        yield Stop(StopReason.DELETED)
    elif (heir := heir_of(task, at)) is not None and (at.draining or at.consents(task, heir.node)):
        yield Stop(StopReason.DRAINED if at.draining else StopReason.HANDED_OVER, heir.node)
    elif at.draining and at.alone:
        yield Stop(StopReason.DRAINED)


def _closed(task: str, at: NodeSituation, run: Run) -> Iterator[Action]:
    view = at.view
    own = view.own_claims(task, at.me)
    if run.claim not in own:
        yield Forget()
    elif at.is_leaving(run.claim):
        return
    elif not _is_ours(task, at, run):
        for claim in tuple(own):
            if not at.is_leaving(claim):
                yield Release(claim)
    elif view.deleted(task):
        yield Finish(run.claim, deleted=True)
    elif run.give_back or (at.draining and at.alone):
        yield Release(run.claim)
    elif (heir := next((c for c in view.queue(task) if c.node != at.me), None)) is not None:
        yield HandOver(run.claim, heir)
    else:
        yield Forget()  # the heir has gone: start the task again here or, when draining, release it


def _finished(task: str, at: NodeSituation, run: Run) -> Iterator[Action]:
    if run.claim not in at.view.own_claims(task, at.me):
        yield Forget()
    elif at.is_leaving(run.claim):
        return
    elif not _is_ours(task, at, run):
        yield Discard()
    else:
        yield Finish(run.claim, deleted=at.view.deleted(task))
