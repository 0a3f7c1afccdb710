"""One membership of a node: from joining the cluster to leaving it or losing the session.

Three things run here, all in one nursery inside the session's cancel scope: the follower, which looks at what has
changed in the view; the planner, which now and then asks who should own what; and the rooms. Every decision
is a synchronous step between two awaits, so that nothing changes under it. Session loss cancels the
nursery, by construction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, assert_never

import trio

from metafora_trio._errors import InvalidTask
from metafora_trio._model import reconcile as do
from metafora_trio._model.changes import Changes
from metafora_trio._model.claim import Claim
from metafora_trio._model.reconcile import RunState, may_open, reconcile
from metafora_trio._model.state import StateName, StopReason
from metafora_trio._model.stored_task import StoredTask
from metafora_trio._model.view import ClusterView
from metafora_trio._running_task import RunningTask
from metafora_trio.contract import Session
from metafora_trio.events import (
    LeaseAtRisk,
    TaskClaimed,
    TaskEnded,
    TaskGivenUp,
    TaskOverran,
    TaskStarted,
    TaskStopFailed,
    TaskStopped,
    TaskStopping,
)

from .commands import Commands
from .planner import Planner
from .task_run import TaskRun, failure
from .watchdog import watch_lease

if TYPE_CHECKING:
    from .consumer import Consumer

__all__ = ["Membership"]

_CHUNK = 256
"""Tasks to look at between two checkpoints: about 5 ms."""
_FLUSH_TIMEOUT = 2.0
"""Seconds for the ends of tasks to reach the broker when the node is cancelled."""
_OVERRUN_TOLERANCE = 0.05
"""Seconds that cancelling may take when a lease is revoked at once: what a thawed process is granted."""


class Membership:
    """What a consumer does in one session. Implements `NodeSituation` for `reconcile`."""

    def __init__(self, consumer: Consumer, session: Session) -> None:
        self.consumer = consumer
        self.session = session
        self.me = session.node.identity
        self.runs: dict[str, TaskRun] = {}
        self.running: dict[str, RunningTask] = {}
        self.handing_over = 0
        self.planner = Planner(self)
        self._commands = Commands(self)
        self._nursery: trio.Nursery | None = None
        self._left = trio.Event()
        self._ending = False
        self._drain_ended = False

    # ---- Circumstances

    @property
    def view(self) -> ClusterView:
        return self.session.view

    @property
    def draining(self) -> bool:
        return self.session.node.draining

    @property
    def alone(self) -> bool:
        return self._drain_ended or not any(
            identity != self.me and not node.draining and not node.frozen for identity, node in self.view.nodes.items()
        )

    def is_leaving(self, claim: Claim) -> bool:
        return self.session.is_leaving(claim)

    def wants(self, task: str) -> bool:
        return self.planner.wants(task)

    def consents(self, task: str, heir: str) -> bool:
        if self.session.node.frozen or self.handing_over >= self.consumer.max_handovers:
            return False
        return self.planner.consents(task, heir)

    # ---- the body

    async def run(self) -> None:
        """Work until the node has drained. Cancelled from outside when the session is lost, or the node stops."""
        if not (self.session.watched and self.session.lease.finite):
            await self._run()
            return
        consumer = self.consumer
        with watch_lease(self.session.lease, self._open_tasks, consumer.on_overrun, consumer.logger):
            await self._run()

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._follow)
                self._nursery.start_soon(self.planner.run)
                self._nursery.start_soon(self._watch_risk)
                self._nursery.start_soon(self._note_cancellation)
                self.look_at_everything()
                self._commands.carry_out()  # a node can be sent some before it has joined to the end
                await self._left.wait()
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            await self._flush()  # noqa: ASYNC102 - shielded and bounded within

    def _open_tasks(self) -> Sequence[str]:
        return [run.id for run in self._open_runs()]

    def _open_runs(self) -> Sequence[TaskRun]:
        """Called in the watchdog's thread too: one atomic copy, then no shared state."""
        return [run for run in list(self.runs.values()) if run.state in (RunState.RUNNING, RunState.CLOSING)]

    async def _follow(self) -> None:
        while True:
            await self.session.wait_changed()
            changes = self.session.take_changes()
            if changes.everything or changes.nodes:
                self.planner.nodes_changed()
            if self.session.current:
                await self._look_at_changed(changes)
            self._commands.carry_out()
            self.planner.refill()
            self.leave_if_done()

    async def _look_at_changed(self, changes: Changes) -> None:
        for count, task in enumerate(self._parts() if changes.everything else changes.tasks):
            if count % _CHUNK == _CHUNK - 1:
                await trio.lowlevel.checkpoint()
            self.look_at(task)
        if changes.nodes:  # an heir may have gone or begun to drain, an owner may have been frozen
            self.look_at_contested()
            if self.draining and self.alone:
                self.look_at_everything()
        if changes.tasks or changes.everything:
            self.planner.tasks_changed()

    async def _note_cancellation(self) -> None:
        """Note that everything here is being cancelled: the session is lost, or the node stops.

        An abort function runs within the cancelling itself, before any task does: a handler that looks why it
        must stop finds the reason, and a room that has just closed is not opened anew.
        """

        def cancelled(_: object) -> trio.lowlevel.Abort:
            self._ending = True
            for run in self._open_runs():
                assert run.task is not None
                run.task._reason = run.task.stop_reason or StopReason.SHUTDOWN
                run.task._lease_changed()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(cancelled)

    async def _watch_risk(self) -> None:
        """Report, once each time, that half of the time to the cancelling has gone without a proof of life."""
        lease = self.session.lease
        reported = -math.inf
        while lease.finite:
            early = self.session.session_timeout / 4
            await trio.sleep_until(lease.cancel_at - early)
            remaining = lease.cancel_at - trio.current_time()
            if remaining <= early and lease.proof != reported:
                self.consumer.emit(LeaseAtRisk(self.me, remaining))
                reported = lease.proof
            await trio.sleep(early / 3)

    async def _flush(self) -> None:
        """When the node is cancelled, see that ends already reached are reported: they must not run again."""
        if not self.session.current:
            return
        end = min(trio.current_time() + _FLUSH_TIMEOUT, self.session.lease.cancel_at)
        with trio.CancelScope(shield=True, deadline=end):
            while self._report_ends():
                await self.session.wait_changed()
                self.session.take_changes()

    def _report_ends(self) -> bool:
        """Look at the tasks with an end to report; returns whether there still are any."""
        for run in [run for run in self.runs.values() if run.state is RunState.FINISHED]:
            self.look_at(run.id)
        return any(run.state is RunState.FINISHED for run in self.runs.values())

    # ---- looking at tasks

    def look_at_everything(self) -> None:
        """Reconcile every task in which this node has a part."""
        if self.session.current:
            for task in self._parts():
                self.look_at(task)
        self.planner.tasks_changed()

    def _parts(self) -> Collection[str]:
        """The tasks in which this node has a part."""
        return {**dict.fromkeys(self.view.claims_of(self.me)), **dict.fromkeys(self.runs)}

    def look_at_contested(self) -> None:
        """Reconcile the tasks that this node has bid for, or is asked for.

        Whether a bid is justified depends on loads, nodes and time, so no event of the task itself need tell.
        """
        for task in [task for task in self.view.contested if self.view.own_claims(task, self.me)]:
            self.look_at(task)

    def look_at(self, task: str) -> None:
        """Compare what should be with what is, for one task, and mend the difference."""
        if not self.session.current:
            return
        again = True
        while again:
            again = False
            run = self.runs.get(task)
            for action in reconcile(task, self, run):
                again = self._carry_out(task, run, action) or again

    def _carry_out(self, task: str, run: TaskRun | None, action: do.Action) -> bool:
        """Do it; returns whether the task must be looked at again now."""
        match action:
            case do.Start(claim):
                self._start(task, claim)
            case do.Stop(reason, heir):
                assert run is not None
                self.stop(run, reason, heir)
            case do.Release(claim):
                if claim == self.view.head(task):
                    self.consumer.emit(TaskGivenUp(self.me, task, claim.seq))
                self.session.release(claim)
            case do.Withdraw(claim, head):
                self.session.withdraw(claim, head)
            case do.HandOver(claim, heir_claim):
                self.consumer.emit(TaskGivenUp(self.me, task, claim.seq, heir_claim.node))
                self.session.hand_over(claim, heir_claim)
            case do.Finish(claim, deleted):
                self._finish(run, claim, deleted)
            case do.Discard():
                assert run is not None
                run.end = None
                run.state = RunState.CLOSED
                return True
            case do.Forget():
                assert run is not None
                self._forget(run)
                return True
            case _:
                assert_never(action)
        return False

    def _start(self, task: str, claim: Claim) -> None:
        if self._nursery is None or self._ending:
            return
        run = self.runs[task] = TaskRun(task, claim)
        self.planner.got(task)
        self.consumer.emit(TaskClaimed(self.me, task, claim.seq))
        self._nursery.start_soon(self._run_task, run, name=f"metafora task {task}")

    def stop(self, run: TaskRun, reason: StopReason, heir: str | None = None) -> None:
        """Tell a task to stop."""
        if run.state is RunState.CLOSING and run.reason is reason:
            return
        self.running.pop(run.id, None)
        if heir is not None:
            run.heir = heir
            self.handing_over += 1
        self.consumer.emit(TaskStopping(self.me, run.id, run.claim.seq, reason, heir))
        run.stop(reason, 0.0 if reason is StopReason.CLAIM_LOST else self.consumer.grace)

    def give_back(self, run: TaskRun) -> None:
        """Stop a running task and give it to anyone; this node leaves it alone for a while."""
        run.give_back = True
        self.stop(run, StopReason.RELEASED)

    def _finish(self, run: TaskRun | None, claim: Claim, deleted: bool) -> None:
        end = None if deleted else run.end if run is not None else None
        self.session.finish(claim, end)
        if end is None:
            self.consumer.emit(TaskEnded(self.me, claim.task, claim.seq, StateName.KILLED))
        else:
            error = end.errors[-1].error if end.errors else ""
            self.consumer.emit(TaskEnded(self.me, claim.task, claim.seq, end.state, error))

    def _forget(self, run: TaskRun) -> None:
        del self.runs[run.id]
        if run.give_back:
            self.planner.leave_alone(run.id)

    # ---- a room

    async def _run_task(self, run: TaskRun) -> None:
        try:
            stored = await self._read(run)
            if stored is not None:
                await self._run_handler(run, stored)
        finally:
            self.running.pop(run.id, None)
            if run.state is RunState.OPENING:
                del self.runs[run.id]
            self.look_at(run.id)
            if run.heir is not None:
                self.handing_over -= 1
                if self.handing_over == self.consumer.max_handovers - 1:
                    self.look_at_contested()  # the next may go
            if not self._ending:
                self.planner.refill()
            self.leave_if_done()

    async def _read(self, run: TaskRun) -> StoredTask | None:
        """The task's record, if all that was true when the room was made still is after the reading."""
        try:
            stored = await self.session.read(run.id)
        except InvalidTask as error:
            run.end = failure(error, self.consumer.now())
            run.state = RunState.FINISHED
            return None
        if stored is None or stored.deleted or not self.session.current or not may_open(run.id, run.claim, self):
            return None  # what is different is, or will be, in the view
        if trio.current_time() >= self.session.lease.cancel_at:
            return None
        return stored

    async def _run_handler(self, run: TaskRun, stored: StoredTask) -> None:
        session = self.session
        task = RunningTask(
            id=run.id,
            props=stored.props,
            node=self.me,
            token=run.claim.seq,
            lease=session.lease,
            cleanup_timeout=self.consumer.cleanup_timeout,
        )

        def opened() -> None:
            self.running[run.id] = task
            self.consumer.emit(TaskStarted(self.me, run.id, run.claim.seq))

        try:
            await run.run(self.consumer.handler, task, opened, self.consumer.now)
        finally:
            late = trio.current_time() - session.lease.end
            self.consumer.emit(TaskStopped(self.me, run.id, run.claim.seq, task.stop_reason))
            if late > _OVERRUN_TOLERANCE:
                self.consumer.emit(TaskOverran(self.me, run.id, run.claim.seq, late))
        if run.stop_error is not None:
            self.consumer.emit(TaskStopFailed(self.me, run.id, run.claim.seq, run.stop_error))

    # ---- what the consumer asks for

    def drain(self) -> None:
        """Begin to leave: announce it, and hold each task until someone bids for it."""
        if self.draining:
            return
        self.session.announce(dataclasses.replace(self.session.node, draining=True))
        if self._nursery is not None:
            self._nursery.start_soon(self._end_drain)
        self.look_at_everything()
        self.leave_if_done()

    async def _end_drain(self) -> None:
        await trio.sleep(self.consumer.drain_timeout)
        self._drain_ended = True
        self.look_at_everything()

    def leave_if_done(self) -> None:
        """A drained node leaves once nothing is its own, and nothing it asked for can still become so."""
        session = self.session
        nothing_open = session.current and not self.runs and not session.outstanding
        if self.draining and nothing_open and not self.view.claims_of(self.me):
            self._left.set()

    def freeze(self, frozen: bool) -> None:
        """Tell everyone that this node is, or is no longer, frozen."""
        self.session.announce(dataclasses.replace(self.session.node, frozen=frozen))
        self.look_at_everything()
