"""Mutants of a node with any broker: when it starts, stops and gives up tasks, and how long it trusts its lease."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import trio

from metafora_trio import Claim, Handler, Outcome, RunningTask, StopReason
from metafora_trio._model import reconcile
from metafora_trio._model.lease import LeaseTerms
from metafora_trio._model.node_info import node_name
from metafora_trio._model.plan import plan as right_plan
from metafora_trio._model.reconcile import Action, NodeSituation, Release, RunState, Start, may_open
from metafora_trio._model.stored_task import StoredTask
from metafora_trio._node import planner, task_runner
from metafora_trio._node.executor import Executor
from metafora_trio._node.membership import Membership
from metafora_trio._node.planner import Planner
from metafora_trio._node.session_run import SessionRun
from metafora_trio._node.situation import Situation
from metafora_trio._node.task_run import TaskRun
from metafora_trio._node.task_runner import TaskRunner
from metafora_trio.contract import ClaimKind, ClusterView, TaskRefused

from .mutant import Change, mutant

__all__ = [
    "bid_never_withdrawn",
    "bid_withdrawn_unconditionally",
    "children_outlive_their_run",
    "claim_on_its_way_out_starts",
    "claimed_is_owned",
    "donor_and_heir_miscount",
    "drain_waits_for_an_heir",
    "drained_node_stays",
    "ended_task_opens",
    "given_to_nobody",
    "identity_is_the_name",
    "late_heartbeat_counts_in_full",
    "lease_is_only_an_event",
    "lease_without_budget",
    "loser_keeps_its_claim",
    "released_before_closed",
    "stuck_scope_parks_its_node",
    "token_of_one_byte",
]

_QUEUE = "Claims are a queue, and the queue is the handover"
_LEASE = "The lease is the deadline of a cancel scope"


# ---- starting


@mutant(rule="A scope opens only under the head of the queue: one create succeeds for every racer.", source=_QUEUE)
def claimed_is_owned() -> Iterator[Change]:
    """A node starts a task once it has a claim, whatever claims precede it in the view."""
    right = reconcile._without_run

    def without_run(task: str, at: NodeSituation, first: Claim) -> Iterator[Action]:
        if task in at.view.tasks and not at.draining and not at.view.deleted(task):
            yield Start(first)
        else:
            yield from right(task, at, first)

    def may_open(task: str, claim: Claim, at: NodeSituation) -> bool:
        return task in at.view.tasks and not at.draining and not at.view.deleted(task)

    yield reconcile, "_without_run", without_run
    yield task_runner, "may_open", may_open


@mutant(rule="A scope opens only under a claim that is not on its way out.", source=_QUEUE)
def claim_on_its_way_out_starts() -> Iterator[Change]:
    yield Situation, "is_leaving", lambda self, claim: False


@mutant(rule="A scope opens only for a task that exists.", source=_QUEUE)
def ended_task_opens() -> Iterator[Change]:
    """A node that had bid for a task that has ended finds its bid at the head of the queue, and starts the task."""
    right, right_read = reconcile._without_run, TaskRunner._read

    def without_run(task: str, at: NodeSituation, first: Claim) -> Iterator[Action]:
        if task in at.view.tasks or first != at.view.head(task) or at.is_leaving(first) or at.draining:
            yield from right(task, at, first)
        else:
            yield Start(first)

    async def read(self: TaskRunner, run: TaskRun) -> StoredTask | None:
        try:
            stored, at = await self._session.read(run.id), self._situation
        except TaskRefused:
            return await right_read(self, run)
        if not self._session.current or at.view.head(run.id) != run.claim or at.is_leaving(run.claim):
            return None
        return stored or StoredTask({})

    yield reconcile, "_without_run", without_run
    yield TaskRunner, "_read", read


def lease_is_only_an_event() -> Iterator[Change]:
    """Part of a mutant: the end of the lease stops the tasks that run at that moment, but none that open later. Alone
    this breaks nothing, because the session of any broker cancels everything at the end of the lease."""

    right_read = TaskRunner._read

    async def read(self: TaskRunner, run: TaskRun) -> StoredTask | None:
        try:
            stored = await self._session.read(run.id)
        except TaskRefused:
            return await right_read(self, run)
        return stored if self._session.current and may_open(run.id, run.claim, self._situation) else None

    async def watch_lease(self: Membership) -> None:
        lease = self.session.lease
        while True:
            end = lease.cancel_at
            await trio.sleep_until(end)
            if lease.cancel_at > end:
                continue
            for run in list(self.runs.values()):
                if run.state is RunState.RUNNING:
                    self._executor.stop(run, StopReason.SESSION_LOST)
            while lease.cancel_at <= trio.current_time():  # noqa: ASYNC110 - a mutant may be slow
                await trio.sleep(0.05)

    yield TaskRunner, "_read", read
    yield Membership, "_watch_risk", watch_lease


@mutant(rule="A node is its session: its claims are found by the session's mark, not by name.", source="ZooKeeper")
def identity_is_the_name() -> Iterator[Change]:
    def claims_of(self: ClusterView, node: str) -> Mapping[str, Sequence[Claim]]:
        merged: dict[str, Sequence[Claim]] = {}
        for identity, claims in self._claims.items():
            if node_name(identity) == node_name(node):
                for task, queue in claims.items():
                    merged[task] = sorted([*merged.get(task, ()), *queue])
        return merged

    yield ClusterView, "claims_of", claims_of
    yield ClusterView, "own_claims", lambda self, task, node: claims_of(self, node).get(task, ())


# ---- giving up


@mutant(rule="Nothing is given up before the scope has closed.", source=_QUEUE)
def released_before_closed() -> Iterator[Change]:
    right = Executor.stop

    def stop(self: Executor, run: TaskRun, reason: StopReason, heir: str | None = None) -> None:
        right(self, run, reason, heir)
        self._session.release(run.claim)

    yield Executor, "stop", stop


@mutant(
    rule="Only the task of a scope that does not close waits for it: the node joins again beside it.", source=_LEASE
)
def stuck_scope_parks_its_node() -> Iterator[Change]:
    async def wait_parted(self: SessionRun) -> None:
        await self._over.wait()

    yield SessionRun, "wait_parted", wait_parted


@mutant(rule="A claim that is not the head is deleted at once.", source=_QUEUE)
def loser_keeps_its_claim() -> Iterator[Change]:
    right = reconcile._surplus

    def surplus(task: str, at: NodeSituation) -> Iterator[Action]:
        for action in right(task, at):
            if not (isinstance(action, Release) and action.claim.kind is ClaimKind.CLAIM):
                yield action

    yield reconcile, "_surplus", surplus


@mutant(rule="A bid is withdrawn only if the head of the queue still exists.", source=_QUEUE)
def bid_withdrawn_unconditionally() -> Iterator[Change]:
    right = Executor._carry_out

    def carry_out(self: Executor, task: str, run: TaskRun | None, action: Action) -> bool:
        if isinstance(action, reconcile.Withdraw):
            action = Release(action.claim)
        return right(self, task, run, action)

    yield Executor, "_carry_out", carry_out


@mutant(rule="A bid that is no longer justified is withdrawn.", source=_QUEUE)
def bid_never_withdrawn() -> Iterator[Change]:
    yield Planner, "wants", lambda self, task: True


@mutant(rule="A task is handed over only if the heir's claim still exists.", source=_QUEUE)
def given_to_nobody() -> Iterator[Change]:
    """Without the guards of both sides, a task can be left without an owner although no client asked for that."""
    right = Executor._carry_out

    def carry_out(self: Executor, task: str, run: TaskRun | None, action: Action) -> bool:
        if isinstance(action, reconcile.Withdraw | reconcile.HandOver):
            action = Release(action.claim)
        return right(self, task, run, action)

    yield Executor, "_carry_out", carry_out


@mutant(rule="A drained node leaves, and its session with it.", source=_QUEUE)
def drained_node_stays() -> Iterator[Change]:
    yield Membership, "_leave_if_done", lambda self: None


@mutant(rule="A draining node releases its tasks if no node is left to hand them over to.", source=_QUEUE)
def drain_waits_for_an_heir() -> Iterator[Change]:
    yield Situation, "alone", property(lambda self: False)


@mutant(rule="The owner consents only if that strictly lowers the imbalance.", source=_QUEUE)
def donor_and_heir_miscount() -> Iterator[Change]:
    """Every node believes that it owns nothing, and bids; no donor checks its own load."""

    def plan(view: ClusterView, me: str, **options: Collection[str] | bool) -> dict[str, str]:
        others = {task: me for node in view.nodes if node != me for task in view.owned_by(node)}
        return {**others, **right_plan(view, me, **options)}  # type: ignore[arg-type]

    def may_bid(self: Planner, task: str) -> bool:
        owner = self._session.view.owner(task)
        return owner not in (None, self._me) and not self._session.view.own_claims(task, self._me)

    yield planner, "plan", plan
    yield Planner, "_may_bid", may_bid
    yield Planner, "wants", lambda self, task: True
    yield Planner, "consents", lambda self, task, heir: True


# ---- what the user sees


@mutant(rule="A run lasts until the handler and everything in its nursery have ended.", source=_QUEUE)
def children_outlive_their_run() -> Iterator[Change]:
    """The claim is given up when the handler has ended."""
    right = TaskRun.run

    async def run(self: TaskRun, handler: Handler, *args: Any, **options: Any) -> None:
        async def ending(task: RunningTask) -> Outcome | None:
            try:
                return await handler(task)
            except trio.Cancelled:
                self.state = RunState.CLOSED
                raise

        await right(self, ending, *args, **options)

    yield TaskRun, "run", run


@mutant(rule="The fencing token is the claim's whole number.", source=_QUEUE)
def token_of_one_byte() -> Iterator[Change]:
    right = RunningTask.__init__

    def init(self: RunningTask, *, token: int, **arguments: Any) -> None:
        right(self, token=token & 0xFF, **arguments)

    yield RunningTask, "__init__", init


# ---- the lease


@mutant(rule="Scopes are cancelled at T/2 and closed by 2T/3, well before the session can expire.", source=_LEASE)
def lease_without_budget() -> Iterator[Change]:
    """The lease lasts as long as the servers usually keep a session: T, rounded up by them."""
    yield LeaseTerms, "until_cancel", property(lambda self: 1.25 * self.session_timeout)
    yield LeaseTerms, "until_end", property(lambda self: 1.25 * self.session_timeout)


@mutant(rule="A heartbeat that is sent late counts from when it was due.", source=_LEASE)
def late_heartbeat_counts_in_full() -> Iterator[Change]:
    yield LeaseTerms, "stamp", lambda self, now, previous: now
