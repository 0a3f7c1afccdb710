"""Mutants of the ZooKeeper coordinator: proofs of life, the view through reconnects, transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import trio

from metafora_trio import Claim
from metafora_trio.contract import ClaimKind, ClusterView, LeaseTerms
from metafora_trio_zookeeper._client.client import ZooKeeperClient
from metafora_trio_zookeeper._client.requests import Requests
from metafora_trio_zookeeper._connection import (
    Delete,
    Done,
    ErrorCode,
    EventType,
    Reply,
    RequestError,
    SetData,
    WriteOp,
)
from metafora_trio_zookeeper._replies import Burst
from metafora_trio_zookeeper._session import live_view
from metafora_trio_zookeeper._session.batch import Unit
from metafora_trio_zookeeper._session.heartbeat import Heartbeat
from metafora_trio_zookeeper._session.in_flight import InFlight
from metafora_trio_zookeeper._session.lists import Changed
from metafora_trio_zookeeper._session.live_view import LiveView
from metafora_trio_zookeeper._session.session import ZooKeeperSession
from metafora_trio_zookeeper._session.writes import Writes
from metafora_trio_zookeeper.testing.simulated._network import Hello, Kind
from metafora_trio_zookeeper.testing.simulated._quorum import Quorum
from metafora_trio_zookeeper.testing.simulated._server import Origin

from .mutant import Change, mutant
from .node import lease_is_only_an_event

__all__ = [
    "ambiguous_claim_forgotten",
    "claim_goes_before_the_task",
    "claims_again_while_pending",
    "deleted_outright",
    "done_without_conditions",
    "first_heartbeat_counts_in_full",
    "lease_counts_from_the_reply",
    "lease_is_no_deadline",
    "lease_not_looked_at_on_opening",
    "leaving_marks_dropped",
    "longer_timeout_trusted",
    "lost_submit_acknowledged",
    "new_timeout_ignored",
    "no_barrier_on_reconnect",
    "no_resync_after_reconnect",
    "no_watches_after_reconnect",
    "node_news_lost_during_a_resync",
    "read_is_proof_of_life",
    "refusal_ends_the_session",
    "stale_write_accepted",
    "suspend_not_noticed",
    "tombstone_missed_by_a_resync",
]

_QUEUE = "Claims are a queue, and the queue is the handover"
_LEASE = "The lease is the deadline of a cancel scope"
_ZOOKEEPER = "ZooKeeper"
_Settle = Callable[[Unit, RequestError | None], None]


# ---- the lease


@mutant(rule="The lease is the deadline of the scope around all tasks.", source=_LEASE)
def lease_is_no_deadline() -> Iterator[Change]:
    yield ZooKeeperSession, "_on_renewed", lambda self: None


@mutant(rule="The clock is checked in the step in which a scope opens.", source=_QUEUE)
def lease_not_looked_at_on_opening() -> Iterator[Change]:
    """The session cancels nothing at the end of the lease, and the node stops only the tasks running then."""
    yield from lease_is_only_an_event()
    yield ZooKeeperSession, "_on_renewed", lambda self: None


@mutant(rule="The lease counts from when the acknowledged heartbeat was sent.", source=_LEASE)
def lease_counts_from_the_reply() -> Iterator[Change]:
    seen: WeakKeyDictionary[Heartbeat, float] = WeakKeyDictionary()

    def renew(self: Heartbeat) -> None:
        proof = self._connection.proof
        if proof > seen.get(self, float("-inf")):
            seen[self] = proof
            now = trio.current_time()
            if self._lease.renew(self.terms, now, now):
                self._renewed()

    yield Heartbeat, "renew", renew


@mutant(rule="The first heartbeat of a connection counts from the connect at the latest.", source=_LEASE)
def first_heartbeat_counts_in_full() -> Iterator[Change]:
    right = Heartbeat.send

    def send(self: Heartbeat, done: Done | None = None) -> None:
        connection, now = self._connection, trio.current_time()
        if self._number != connection.number:
            self._number, self._previous, self._last_arrival = connection.number, now, now
            self._unanswered.clear()
        right(self, done)

    yield Heartbeat, "send", send


@mutant(rule="After a reconnect, the lease lasts no longer than the timeout that the new server grants.", source=_LEASE)
def new_timeout_ignored() -> Iterator[Change]:
    right = Heartbeat.set_terms

    def set_terms(self: Heartbeat, terms: LeaseTerms) -> None:
        if not self._lease.finite:
            right(self, terms)

    yield Heartbeat, "set_terms", set_terms


@mutant(rule="The lease is based on the shortest timeout that a server has granted the session.", source=_LEASE)
def longer_timeout_trusted() -> Iterator[Change]:
    """A new leader restarts a session with the timeout that it was created with."""
    right = ZooKeeperSession._take_terms

    def take_terms(self: ZooKeeperSession) -> None:
        if self._connection.session_timeout > self._heartbeat.terms.session_timeout:
            self._heartbeat.terms = LeaseTerms(0.0)
        right(self)

    yield ZooKeeperSession, "_take_terms", take_terms


@mutant(rule="A heartbeat is a quorum write: a follower cut off from its leader keeps answering reads.", source=_LEASE)
def read_is_proof_of_life() -> Iterator[Change]:
    right = Heartbeat.send

    def send(self: Heartbeat, done: Done | None = None) -> None:
        if done is not None:  # leave the barrier unchanged
            right(self, done)
            return
        now = trio.current_time()
        stamp = self.terms.stamp(now, self._previous)
        self._previous = now

        def answered(reply: Reply | RequestError) -> None:
            if isinstance(reply, Reply) and reply.value[0] is None:
                reply = RequestError(ErrorCode.NO_NODE)
            if isinstance(reply, RequestError):
                self._answered(reply)
            else:
                cast(Any, self._connection)._prove(stamp)
                self.renew()

        self._connection.read([self._path], answered)

    yield Heartbeat, "send", send


@mutant(rule="A suspend of the machine, which stops Trio's clock, ends the session.", source=_LEASE)
def suspend_not_noticed() -> Iterator[Change]:
    yield Heartbeat, "check_suspended", lambda self: None


# ---- the view through reconnects


@mutant(rule="On every reconnect a quorum write is answered before lists count.", source=_ZOOKEEPER)
def no_barrier_on_reconnect() -> Iterator[Change]:
    right = ZooKeeperSession._barrier

    def barrier(self: ZooKeeperSession, burst: Burst) -> None:
        if not self._joined.is_set():
            right(self, burst)
            return
        # There is no barrier: the first heartbeat is sent when it is due, like all others.
        heartbeat, connection = self._heartbeat, self._connection
        heartbeat._number, heartbeat._previous = connection.number, connection.connected_at
        heartbeat._unanswered.clear()
        heartbeat._last_arrival = trio.current_time()

    yield ZooKeeperSession, "_barrier", barrier


@mutant(rule="After a reconnect the session resyncs everything.", source=_ZOOKEEPER)
def no_resync_after_reconnect() -> Iterator[Change]:
    right = LiveView._sync

    async def sync(self: LiveView, barrier: Callable[[Burst], None]) -> None:
        if self.connection.number == 1:
            await right(self, barrier)
            return
        epoch, burst = self._epoch, Burst(self._count_delivery)
        for path in self._watched:
            self.connection.add_watch(path, burst.slot())
        barrier(burst)
        await burst.wait()
        self._check_epoch(epoch)
        events, self._events, self._current.value = self._events, [], True
        for event, path in events:
            self._apply(self.view, event, path)
        self._changes.everything = True
        self._changed.value = True

    yield LiveView, "_sync", sync


@mutant(rule="Watches die with their connection, and are set again on the next.", source=_ZOOKEEPER)
def no_watches_after_reconnect() -> Iterator[Change]:
    right = LiveView._sync

    async def sync(self: LiveView, barrier: Callable[[Burst], None]) -> None:
        if self.connection.number > 1:
            self._watched = []
        await right(self, barrier)

    yield LiveView, "_sync", sync


@mutant(rule="Own claims are read from the view, not remembered from replies.", source=_QUEUE)
def ambiguous_claim_forgotten() -> Iterator[Change]:
    """A claim whose reply was lost stays in the queue, and the node ignores it."""
    right_appeared, right_restart = InFlight.appeared, InFlight.restart
    seen: WeakKeyDictionary[InFlight, set[Claim]] = WeakKeyDictionary()

    def appeared(self: InFlight, claim: Claim) -> None:
        seen.setdefault(self, set()).add(claim)
        right_appeared(self, claim)

    def restart(self: InFlight, own: Iterable[Claim]) -> None:
        known, own = set(seen.get(self, ())), list(own)
        right_restart(self, own)
        for claim in own:
            if claim not in known:
                self.leaving[claim] = Unit((), lambda unit, error: None)  # a leaving claim is ignored

    yield InFlight, "appeared", appeared
    yield InFlight, "restart", restart


@mutant(rule="A node creates no claim for a task while it has one that is pending or in the view.", source=_QUEUE)
def claims_again_while_pending() -> Iterator[Change]:
    right = Writes.create_claim

    def create_claim(self: Writes, task: str, kind: ClaimKind) -> None:
        self._in_flight.pending.pop(task, None)
        right(self, task, kind)

    yield Writes, "create_claim", create_claim
    yield ZooKeeperSession, "is_pending", lambda self, task: False


@mutant(rule="A resync looks up the tasks that may run here, because lists do not show tombstones.", source=_ZOOKEEPER)
def tombstone_missed_by_a_resync() -> Iterator[Change]:
    yield live_view, "changed_of", lambda tasks, looked_up: Changed([], {}, [])


@mutant(rule="Events that arrive during a resync are applied to the new view, also those of nodes.", source=_ZOOKEEPER)
def node_news_lost_during_a_resync() -> Iterator[Change]:
    right = LiveView._apply_node

    def apply_node(self: LiveView, view: ClusterView, event: EventType, name: str) -> None:
        if view is self.view or self.connection.number == 1:
            right(self, view, event, name)

    yield LiveView, "_apply_node", apply_node


# ---- transactions


def _split(end: Callable[[Writes, Claim, Sequence[WriteOp], _Settle], None]) -> Iterator[Change]:
    """Write the end of a task in another way. `end` receives the right operations; the last one is the claim's."""
    right = Writes._give_up

    def give_up(self: Writes, claim: Claim, ops: Sequence[WriteOp], settle: _Settle) -> None:
        path = self._layout.task_path(claim.task)
        if any(isinstance(op, Delete) and op.path == path for op in ops):
            end(self, claim, ops, settle)
        else:
            right(self, claim, ops, settle)

    yield Writes, "_give_up", give_up


@mutant(rule="Done is conditional on the claim and on the task's version.", source=_QUEUE)
def done_without_conditions() -> Iterator[Change]:
    right = Writes._give_up

    def end(self: Writes, claim: Claim, ops: Sequence[WriteOp], settle: _Settle) -> None:
        path = self._layout.task_path(claim.task)
        unconditional = [Delete(path) if op.path == path else op for op in ops[:-1]]
        right(self, claim, unconditional, settle)
        self._batch.add(Unit((ops[-1],), lambda unit, error: None, task=claim.task))

    return _split(end)


@mutant(rule="Done is one transaction, the task before the claim.", source=_QUEUE)
def claim_goes_before_the_task() -> Iterator[Change]:
    """For a moment the next node in the queue owns a task that is done."""
    right = Writes._give_up

    def end(self: Writes, claim: Claim, ops: Sequence[WriteOp], settle: _Settle) -> None:
        def then(unit: Unit, error: RequestError | None) -> None:
            self._batch.add(Unit(tuple(ops[:-1]), lambda unit, error: None, task=claim.task))

        right(self, claim, ops[-1:], then)

    return _split(end)


@mutant(rule="A claim that is being given up is marked until the answer is known.", source=_QUEUE)
def leaving_marks_dropped() -> Iterator[Change]:
    right = Writes._give_up

    def give_up(self: Writes, claim: Claim, ops: Sequence[WriteOp], settle: _Settle) -> None:
        right(self, claim, ops, settle)
        del self._in_flight.leaving[claim]

    yield Writes, "_give_up", give_up


@mutant(rule="A refusal about one task concerns only that task.", source=_QUEUE)
def refusal_ends_the_session() -> Iterator[Change]:
    def on_end_refused(self: Writes, claim: Claim, ops: Sequence[WriteOp], error: RequestError) -> None:
        self._refused(f"ending task {claim.task!r}", error)

    yield Writes, "_on_end_refused", on_end_refused


@mutant(rule="A client's delete is a tombstone; only the owner removes the task.", source=_QUEUE)
def deleted_outright() -> Iterator[Change]:
    async def delete(self: ZooKeeperClient, tasks: Sequence[str]) -> Sequence[str]:
        for task in tasks:
            for path in (self._layout.task_path(task), self._layout.state_path(task)):
                await self._requests.write([Delete(path)])
        return []

    yield ZooKeeperClient, "delete", delete


@mutant(rule="A submit whose reply was lost is acknowledged only if it has arrived.", source=_ZOOKEEPER)
def lost_submit_acknowledged() -> Iterator[Change]:
    """The end of the earlier submission is taken for the end of the new one."""
    right = Requests.write

    async def write(self: Requests, ops: Sequence[WriteOp], **options: Any) -> RequestError | None:
        failure = await right(self, ops, **options)
        again = any(isinstance(op, SetData) and op.path.startswith(f"{self.layout.states}/") for op in ops)
        lost = failure is not None and failure.code is ErrorCode.CONNECTION_LOSS
        return None if again and lost else failure

    yield Requests, "write", write


@mutant(
    rule="Nothing from an old session, or from a connection that its session has left, takes effect.", source=_ZOOKEEPER
)
def stale_write_accepted() -> Iterator[Change]:
    """ZooKeeper itself guarantees this, so the mutant is a bug in the simulated servers."""
    right = Quorum._decide

    def decide(self: Quorum, origin: Origin) -> None:
        request = origin.request
        if isinstance(request, Hello) or request.kind is Kind.CLOSE:
            right(self, origin)
        else:
            self._transact(origin, request, self.sessions[origin.channel.session])

    yield Quorum, "_decide", decide
