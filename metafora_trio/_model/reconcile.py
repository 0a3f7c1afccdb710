"""What to do about one task: a pure function of what the view says and of what runs here.

It is level-triggered: called whenever something about the task may have changed, it compares what should be
with what is, and says how to mend the difference. Calling it once too often does no harm.

The rules are the protocol's, found by exhaustive search of a model; each closes a hole:

* A scope opens only under a claim that is the head of the queue and not on its way out, for a task that
  exists without a tombstone, on a node that does not drain.
* Nothing is given up before the scope has closed.
* A losing claim is not a bid: only a bid is a request for a handover.
* Bids are withdrawn, and tasks handed over, on condition that the other's claim stands: exactly one of the
  two happens, so that a task is never without an owner in between.
* An end is reported only by the owner, for the task it ran: task before claim, all or nothing.
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
    """The life of a room: a task's runner and its scope."""

    OPENING = "opening"
    """Its properties are being read; nothing runs."""
    RUNNING = "running"
    CLOSING = "closing"
    """Told to stop; the scope is still open."""
    CLOSED = "closed"
    """The scope has closed without an end to report."""
    FINISHED = "finished"
    """The scope has closed, and there is an end to report."""


class Run(Protocol):
    """What `reconcile` needs to know of a room."""

    @property
    def state(self) -> RunState: ...

    @property
    def claim(self) -> Claim:
        """The claim under which its scope was opened."""
        ...

    @property
    def give_back(self) -> bool:
        """Whether the task is to be given to anyone, heir or not."""
        ...


class NodeSituation(Protocol):
    """What `reconcile` needs to know besides the task."""

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
        """Whether a drain has nobody left to hand over to, or no time left to wait for them."""
        ...

    def is_leaving(self, claim: Claim) -> bool: ...

    def consents(self, task: str, heir: str) -> bool:
        """Whether to hand the running task over."""
        ...

    def wants(self, task: str) -> bool:
        """Whether a bid for the task is still justified."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """Read the task, look again, and open its scope."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell what runs to stop."""

    reason: StopReason
    heir: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Give up a claim, unconditionally."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Give up a bid, if the head of the queue is still there."""

    claim: Claim
    head: Claim


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give up a claim, if the heir's is still there."""

    claim: Claim
    heir: Claim


@dataclass(frozen=True, slots=True)
class Finish:
    """Report the end; `deleted`: the task was deleted by a client, and leaves no state behind."""

    claim: Claim
    deleted: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop the end that the room has to report: the task is not ours to end."""


@dataclass(frozen=True, slots=True)
class Forget:
    """There is no room any more; look at the task anew."""


Action = Start | Stop | Release | Withdraw | HandOver | Finish | Discard | Forget


def may_open(task: str, claim: Claim, at: NodeSituation) -> bool:
    """Whether a scope may open under `claim`, by the view. (The clock is asked beside it.)"""
    view = at.view
    return (
        view.head(task) == claim
        and not at.is_leaving(claim)
        and task in view.tasks
        and not view.deleted(task)
        and not at.draining
    )


def heir_of(task: str, at: NodeSituation) -> Claim | None:
    """The first claim of another node in the queue, if it is a bid of a node that can take the task."""
    for claim in at.view.queue(task):
        if claim.node != at.me:
            node = at.view.nodes.get(claim.node)
            if claim.kind is ClaimKind.BID and node is not None and not node.draining:
                return claim
            return None
    return None


def reconcile(task: str, at: NodeSituation, run: Run | None) -> Iterator[Action]:
    """Say what to do about a task now.

    Args:
        task: its id.
        at: the view and this node's situation. Not called while the view is not current.
        room: what runs here for the task, if anything does.

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
            yield Stop(StopReason.CLAIM_LOST)  # whatever time it was given to wind down is over
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
    else:
        yield Start(first)


def _surplus(task: str, at: NodeSituation) -> Iterator[Action]:
    """Claims of ours that do not own the task: attempts that lost, and bids."""
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
    """Whether the room's claim owns the very task that it was opened for."""
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
        yield Forget()  # the heir has gone: run on here (or, when draining, let go)


def _finished(task: str, at: NodeSituation, run: Run) -> Iterator[Action]:
    if run.claim not in at.view.own_claims(task, at.me):
        yield Forget()
    elif at.is_leaving(run.claim):
        return
    elif not _is_ours(task, at, run):
        yield Discard()
    else:
        yield Finish(run.claim, deleted=at.view.deleted(task))
