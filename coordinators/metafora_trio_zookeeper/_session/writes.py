"""Writes: sends a session's requests as units of a batch, and handles their outcomes.

The events of a write come before its reply, so the view shows the outcome before the reply is here. The reply has only
two cases left to handle. If a condition did not hold, the request is no longer in flight and its task is reported as
changed. If an expected event did not come, the event stream is broken, and the connection is dropped to resync.

A condition that did not hold must show in the view. Otherwise the same would be decided again at once, and so on. So a
znode that is missing at the server is compared with the view: a task is noted as gone, a claim resyncs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from metafora_trio import Claim, NodeInfo, TaskState
from metafora_trio.contract import ClaimKind, QueuedCommand
from metafora_trio_zookeeper._connection import (
    Check,
    Connection,
    Create,
    Delete,
    ErrorCode,
    Reply,
    RequestError,
    SetData,
    WriteOp,
)
from metafora_trio_zookeeper._layout import MAX_REQUEST_BYTES, Layout
from metafora_trio_zookeeper._replies import is_broken

from .batch import Batch, Unit, unit_size
from .in_flight import InFlight
from .live_view import LiveView

__all__ = ["Writes"]

_CHANGED = (ErrorCode.NO_NODE, ErrorCode.BAD_VERSION)
"""The codes with which a condition does not hold: something has changed, and the view shows it."""

_log = logging.getLogger("metafora_trio.zookeeper")


class Writes:
    """A session's requests to change something in ZooKeeper.

    Requests are accepted only while the view is current. `release`, `announce` and `remove_command` survive a
    reconnect.

    Args:
        connection: the session's.
        layout: the namespace.
        live: the view that the requests are based on.
        in_flight: the requests in flight; updated here and by the view.
        node: the node's record as stored when joining.
        refused: called with the attempted action and the error, if a request failed for an unexpected reason, such as a
            missing permission. Trying again would fail for ever.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        live: LiveView,
        in_flight: InFlight,
        node: NodeInfo,
        refused: Callable[[str, RequestError], None],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._live = live
        self._in_flight = in_flight
        self._me = node.identity
        self._refused = refused
        self._announced = node
        self._wanted = node
        self._announcing: Unit | None = None
        self._overwritten = False
        self._removing: dict[str, Unit] = {}
        self._stuck: set[str] = set()
        self._full = False
        self._used_up: set[str] = set()  # the buckets in which this session has got a number after the last
        self._batch = Batch(connection, live.read_ahead)
        self.run = self._batch.run

    @property
    def outstanding(self) -> int:
        """The number of requests that are queued or unanswered."""
        in_flight = self._in_flight
        return len(in_flight.pending) + len(in_flight.leaving) + len(self._removing) + (self._announcing is not None)

    def suspend(self) -> None:
        """Stop sending, because the connection broke. Requests in flight stay so, since their outcome is unknown."""
        self._batch.close()

    def resume(self) -> None:
        """Continue after a resync. Nothing is in flight any more, since the view shows every outcome. Call this in the
        same step as the swap, so that the consumer sees released claims as leaving."""
        in_flight, view = self._in_flight, self._live.view
        in_flight.restart(claim for queue in view.claims_of(self._me).values() for claim in queue)
        self._batch.open()
        for claim in list(in_flight.released):
            self._release(claim)
        unsure, self._announcing = self._announcing is not None, None
        if unsure or self._overwritten or self._wanted != self._announced:
            self._announce()
        queued_commands = self._live.queued_commands
        removing, self._removing = self._removing, {}
        for name in removing:
            if name in queued_commands.own or name in queued_commands.others:
                self.remove_command(name)

    # ---- claims

    def create_claim(self, task: str, kind: ClaimKind) -> None:
        """Create a claim or bid for a task, and read the task's record ahead."""
        live, in_flight = self._live, self._in_flight
        if not live.current or task in in_flight.pending or live.view.own_claims(task, self._me):
            return
        if self._used_up and self._layout.bucket(task) in self._used_up:
            return
        full = in_flight.free <= len(in_flight.pending)
        if full and not self._full:
            _log.warning("node %s has as many claims as one session can hold; it creates no more", self._me)
        self._full = full
        if full:
            return
        create = Create(self._layout.claim_prefix(task, self._me, kind), ephemeral=True, sequential=True)
        unit = Unit((create,), self._on_claimed, task=task, read=True)
        in_flight.pending[task] = unit
        self._batch.add(unit)

    def _on_claimed(self, unit: Unit, error: RequestError | None) -> None:
        if self._in_flight.pending.get(unit.task) is unit:
            if error is None and (bucket := self._layout.bucket(unit.task)) in self._layout.used_up:
                self._used_up.add(bucket)
                del self._in_flight.pending[unit.task]
                _log.critical(
                    "node %s cannot claim task %r: the sequence numbers of %s/%s are used up. No node can claim "
                    "tasks of this bucket any more; move to a new namespace",
                    *(self._me, unit.task, self._layout.claims, bucket),
                )
            elif error is None:
                self._break(f"no event for the creation of its claim for task {unit.task!r}")
            else:
                self._refused(f"claiming task {unit.task!r}", error)

    def release(self, claim: Claim) -> None:
        """Give up a claim unconditionally: now, or after the next resync if the view is not current."""
        live, in_flight = self._live, self._in_flight
        if claim not in live.view.own_claims(claim.task, self._me) or claim in in_flight.released:
            return
        in_flight.released[claim] = None
        if live.current:
            self._release(claim)

    def _release(self, claim: Claim) -> None:
        self._give_up(claim, (Delete(self._layout.claim_path(claim)),), self._on_released)

    def _on_released(self, unit: Unit, error: RequestError | None) -> None:
        done = error is None or error.code is ErrorCode.NO_NODE
        self._on_given_up(unit, None if done else error)

    def give_up_if(self, claim: Claim, other: Claim) -> None:
        """Give up a claim on the condition that another claim exists."""
        if self._live.current and not self._in_flight.is_leaving(claim):
            path = self._layout.claim_path

            def settle(unit: Unit, error: RequestError | None) -> None:
                about_other = error.code if error is not None and error.index == 0 else None
                if about_other is ErrorCode.NO_NODE and other in self._live.view.queue(other.task):
                    self._break(f"no event for the deletion of {other}")
                elif about_other is ErrorCode.NO_AUTH and self._in_flight.leaving.get(claim) is unit:
                    self._release(claim)  # nothing runs under it, so it may go although nobody knows who is next
                else:
                    self._on_given_up(unit, error)

            self._give_up(claim, (Check(path(other)), Delete(path(claim))), settle)

    def remove_stray(self, claim: Claim) -> None:
        """Delete a claim that belongs to no session. If that fails, it is logged."""

        def settle(unit: Unit, error: RequestError | None) -> None:
            if error is not None and error.code not in _CHANGED:
                _log.warning("node %s cannot remove the claim for task %r: %s", self._me, claim.task, error)

        self._batch.add(Unit((Delete(self._layout.claim_path(claim)),), settle, task=claim.task))

    def finish(self, claim: Claim, state: TaskState | None) -> None:
        """Remove the task and the claim and set the state."""
        if self._live.current and not self._in_flight.is_leaving(claim):
            self._finish(claim, None if state is None else state.encode(), recorded=True)

    def _finish(self, claim: Claim, state: bytes | None, *, recorded: bool) -> None:
        """Queue the unit that ends a task.

        Args:
            claim: the owner's claim.
            state: the encoded state, or None to remove the state record.
            recorded: whether to expect a state record. There nearly always is one, so try with True first.
        """
        layout, task = self._layout, claim.task
        path = layout.state_path(task)
        ops: list[WriteOp] = []
        if state is not None:
            ops.append(SetData(path, state) if recorded else Create(path, state))
        elif recorded:
            ops.append(Delete(path))
        # Expect the version that was last seen without a tombstone, which is 0 unless an operator has set other
        # properties. If the view shows a tombstone, accept any version: while our claim exists, it is still the same
        # task. Delete the task before the claim: otherwise the next in the queue owns it for a moment.
        version = -1 if self._live.view.deleted(task) else self._live.versions.get(task, 0)
        ops += [Delete(layout.task_path(task), version), Delete(layout.claim_path(claim))]

        def settle(unit: Unit, error: RequestError | None) -> None:
            wrong = ErrorCode.NO_NODE if recorded else ErrorCode.NODE_EXISTS
            guessed = error is not None and error.index == 0 and error.code is wrong
            if guessed and isinstance(unit.ops[0], Create | SetData | Delete) and unit.ops[0].path == path:
                self._finish(claim, state, recorded=not recorded)
            elif error is not None and error.code is ErrorCode.BAD_VERSION:
                self._on_changed(unit, claim, ops, error)
            elif error is None or error.index == len(ops) - 1:
                self._on_given_up(unit, error)
            elif self._in_flight.leaving.get(claim) is not unit:
                return
            elif error.code is ErrorCode.NO_NODE and error.index == len(ops) - 2:
                self._live.note_record(task, None)
                self._on_given_up(unit, error)
            else:
                self._on_end_refused(claim, ops, error)

        self._give_up(claim, ops, settle)

    def _on_changed(self, unit: Unit, claim: Claim, ops: Sequence[WriteOp], error: RequestError) -> None:
        """Read the task, since a tombstone or something else has been written to it, before the end is decided again.
        The claim counts as leaving until then."""

        def on_read(reply: Reply | RequestError) -> None:
            found = reply.value[0] if isinstance(reply, Reply) else reply
            if self._in_flight.leaving.get(claim) is not unit:
                return
            if not isinstance(found, RequestError):
                self._live.note_record(claim.task, found)
                self._on_given_up(unit, error)
            elif not is_broken(found):
                self._on_end_refused(claim, ops, RequestError(found.code, error.index))

        self._live.read_tasks([claim.task], on_read)

    def _on_end_refused(self, claim: Claim, ops: Sequence[WriteOp], error: RequestError) -> None:
        """Keep the claim and try again later: the refusal of an end is about its task, except for the claim's deletion,
        which the session's own znodes must permit."""
        where = "" if error.index is None else f" at {ops[error.index].path}"
        reason = f"{error.code.value}{where}"
        if self._in_flight.refusals.reasons.get(claim.task) != reason:
            _log.warning("node %s cannot write the end of task %r: %s", self._me, claim.task, reason)
        del self._in_flight.leaving[claim]
        self._in_flight.refusals.refused(claim, reason)
        self._live.touch(claim.task)

    def _give_up(
        self, claim: Claim, ops: Sequence[WriteOp], settle: Callable[[Unit, RequestError | None], None]
    ) -> None:
        unit = Unit(tuple(ops), settle, task=claim.task, claim=claim)
        assert unit_size(unit) <= MAX_REQUEST_BYTES  # `TaskState.encode` has a limit below that
        self._in_flight.leaving[claim] = unit
        self._batch.add(unit)

    def _on_given_up(self, unit: Unit, error: RequestError | None) -> None:
        assert unit.claim is not None
        if self._in_flight.leaving.get(unit.claim) is not unit:
            return
        if error is None or (error.code is ErrorCode.NO_NODE and error.index == len(unit.ops) - 1):
            self._break(f"no event for the deletion of its claim for task {unit.task!r}")
        elif error.code in _CHANGED:
            del self._in_flight.leaving[unit.claim]
            self._live.touch(unit.task)
        else:
            self._refused(f"giving up task {unit.task!r}", error)

    def _break(self, what: str) -> None:
        _log.warning("node %s: %s; resyncing", self._me, what)
        self._connection.drop()

    # ---- the node and the commands to it

    def announce(self, node: NodeInfo) -> None:
        """Store a new record of this node, for other nodes to read. Survives a reconnect."""
        self._wanted = node
        if self._live.current and self._announcing is None:
            self._announce()

    def announce_again(self) -> None:
        """Store this node's record again, because something else has overwritten it."""
        self._overwritten = True
        self.announce(self._wanted)

    def _announce(self) -> None:
        """Send the wanted record. Only one is in flight at a time: a unit that is sent again, because another in its
        transaction was refused, could otherwise be overtaken and overwrite a newer record."""
        self._overwritten = False
        node = self._wanted
        op = SetData(self._layout.node_path(self._me), node.encode())
        self._announcing = Unit((op,), lambda unit, error: self._on_announced(unit, error, node))
        self._batch.add(self._announcing)

    def _on_announced(self, unit: Unit, error: RequestError | None, node: NodeInfo) -> None:
        if error is not None:
            self._refused("announcing the node", error)
        elif unit is self._announcing:
            self._announcing = None
            self._announced = node
            if self._overwritten or self._wanted != node:
                self._announce()
            self._live.touch_nodes()

    def queued_commands(self) -> Sequence[QueuedCommand]:
        """Return the commands to this node that are not being removed, oldest first."""
        own = self._live.queued_commands.own
        kept = (queued for name, queued in own.items() if name not in self._removing and name not in self._stuck)
        return sorted(kept, key=lambda queued: int(queued.id.rpartition("~")[2]))

    def remove_command(self, name: str) -> None:
        """Remove a command; try again after a reconnect. One whose removal was refused before is left alone."""
        if name not in self._removing and name not in self._stuck:
            unit = Unit((Delete(self._layout.node_command_path(name)),), self._on_command_removed, task=name)
            self._removing[name] = unit
            self._batch.add(unit)

    def _on_command_removed(self, unit: Unit, error: RequestError | None) -> None:
        self._removing.pop(unit.task, None)
        if error is not None and error.code is not ErrorCode.NO_NODE:
            _log.warning("node %s cannot remove the command %s: %s", self._me, unit.task, error)
            self._stuck.add(unit.task)
            self._live.touch_nodes()
            return
        self._live.queued_commands.forget(unit.task)
        self._live.touch_nodes()
