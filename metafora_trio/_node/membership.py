"""Membership: runs a node's part in one session, from joining the cluster until the node leaves or loses the session.

Three things run in one nursery inside the session's cancel scope: the follower, which reconciles the tasks that have
changed in the view; the planner, which from time to time computes which node should own which task; and the tasks.
Every decision is a synchronous step between two awaits, so nothing can change while it is made. Losing the session
cancels the nursery, because the session's scope surrounds it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping

import trio

from metafora_trio._running_task import Handler, RunningTask
from metafora_trio.contract import Changes, Session
from metafora_trio.events import Event, LeaseAtRisk

from .commands import Commands, NodeControl
from .executor import Executor
from .missing_owners import MissingOwners
from .notices import Notices
from .planner import Planner
from .quarantine import Quarantine
from .settings import ConsumerSettings
from .situation import Situation
from .task_run import TaskRun
from .task_runner import TaskRunner
from .watchdog import watch_lease

__all__ = ["Membership"]

_CHUNK = 256
"""The number of tasks to reconcile between two checkpoints: about 5 ms."""
_FLUSH_TIMEOUT = 2.0
"""Seconds to wait for the ends of tasks to reach the broker when the node is cancelled."""


class Membership:
    """Builds the parts of a node for one session, runs them, and leaves.

    Args:
        session: an open session; the caller closes it.
        handler: the user's handler.
        settings: the consumer's settings.
        control: the consumer, for commands whose effect outlasts the session.
        emit: reports an event.
        logger: for the watchdog, whose thread cannot report events.

    Attributes:
        session: the session.
        running: the tasks that run here and have not been told to stop, by id.
        runs: every run, by task.
        notices: what people should know about this node.
    """

    def __init__(
        self,
        session: Session,
        handler: Handler,
        settings: ConsumerSettings,
        control: NodeControl,
        *,
        emit: Callable[[Event], None],
        logger: logging.Logger,
    ) -> None:
        self.session: Session = session
        self._settings = settings
        self._emit = emit
        self._logger = logger
        self._me = session.node.identity
        runs: dict[str, TaskRun] = {}
        running: dict[str, RunningTask] = {}
        self.runs: Mapping[str, TaskRun] = runs
        self.running: Mapping[str, RunningTask] = running
        self.notices: Notices = Notices(session)
        self._planner = Planner(session, settings, runs=runs, running=running, emit=emit)
        self._quarantine = Quarantine(session, self.notices, emit)
        self._situation = Situation(session, self._planner, max_handovers=settings.max_handovers)
        self._executor = Executor(
            session,
            self._situation,
            self._planner,
            TaskRunner(
                session,
                self._situation,
                handler,
                self._quarantine,
                running=running,
                cleanup_timeout=settings.cleanup_timeout,
                clock=settings.clock,
                emit=emit,
            ),
            runs=runs,
            running=running,
            grace=settings.grace,
            emit=emit,
            ended=self._leave_if_done,
        )
        self._commands = Commands(
            session, control, balance=self._planner.balance, give_back=self._executor.give_back, emit=emit
        )
        self._nursery: trio.Nursery | None = None
        self._left = trio.Event()

    # ---- the body

    async def run(self) -> None:
        """Run tasks until the node has drained. Losing the session and stopping the node cancel this from outside."""
        session, open_runs = self.session, self._executor.open_runs
        if not (session.watched and session.lease.finite):
            await self._run()
            return
        with watch_lease(
            session.lease, lambda: [run.id for run in open_runs()], self._settings.on_overrun, self._logger
        ):
            await self._run()

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._executor.open(self._nursery)
                self._nursery.start_soon(self._follow)
                self._nursery.start_soon(self._keep_planning)
                self._nursery.start_soon(self._watch_risk)
                self._nursery.start_soon(self._note_cancellation)
                self._nursery.start_soon(self._quarantine.run)
                self._nursery.start_soon(MissingOwners(self.session, self.notices, self._emit).run)
                self._executor.look_at_everything()
                self._commands.carry_out()  # some may have been sent before the join was complete
                await self._left.wait()
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._executor.close()
            await self._flush()  # noqa: ASYNC102 - shielded and bounded within

    async def _follow(self) -> None:
        """Reconcile the tasks that change in the view, and carry out commands."""
        while True:
            await self.session.wait_changed()
            changes = self.session.take_changes()
            if changes.everything or changes.nodes:
                self._planner.nodes_changed()
            if self.session.current:
                await self._look_at_changed(changes)
            self._quarantine.look_at_ends()
            self._commands.carry_out()
            self._planner.refill()
            self._leave_if_done()

    async def _look_at_changed(self, changes: Changes) -> None:
        for count, task in enumerate(self._executor.parts() if changes.everything else changes.tasks):
            if count % _CHUNK == _CHUNK - 1:
                await trio.lowlevel.checkpoint()
            self._executor.look_at(task)
        if changes.nodes:  # an heir may have left or begun to drain; an owner may have been frozen
            self._executor.look_at_contested()
            if self._situation.draining and self._situation.alone:
                self._executor.look_at_everything()
        if changes.tasks or changes.everything:
            self._planner.tasks_changed()

    async def _keep_planning(self) -> None:
        while True:
            await self._planner.wait_due()
            for task in self._planner.plan():
                self._executor.give_back(task)
            self._planner.refill()
            self._executor.look_at_contested()
            self._leave_if_done()

    async def _note_cancellation(self) -> None:
        """Note when the nursery is being cancelled because the session is lost or the node stops.

        Trio calls the abort function while cancelling, before any cancelled task runs. Handlers therefore already see
        `stop_reason`, and a task whose run has just closed is not started again.
        """

        def cancelled(_: object) -> trio.lowlevel.Abort:
            self._executor.note_cancellation()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(cancelled)

    async def _watch_risk(self) -> None:
        """Report once if half of the time until the cancellation has passed without a newly acknowledged heartbeat."""
        lease = self.session.lease
        reported = -math.inf
        while lease.finite:
            early = self.session.session_timeout / 4
            await trio.sleep_until(lease.cancel_at - early)
            remaining = lease.cancel_at - trio.current_time()
            if remaining <= early and lease.proof != reported:
                self._emit(LeaseAtRisk(self._me, remaining))
                reported = lease.proof
            await trio.sleep(early / 3)

    async def _flush(self) -> None:
        """When the node is cancelled, report the ends already reached. Otherwise these tasks would run again."""
        if not self.session.current:
            return
        end = min(trio.current_time() + _FLUSH_TIMEOUT, self.session.lease.cancel_at)
        with trio.CancelScope(shield=True, deadline=end):
            while self._executor.report_ends():
                await self.session.wait_changed()
                self.session.take_changes()

    # ---- control by the consumer

    def drain(self) -> None:
        """Begin to drain: announce it, and keep running each task until another node bids for it."""
        if self._situation.draining:
            return
        self.session.announce(dataclasses.replace(self.session.node, draining=True))
        if self._nursery is not None:
            self._nursery.start_soon(self._end_drain)
        self._executor.look_at_everything()
        self._leave_if_done()

    async def _end_drain(self) -> None:
        await trio.sleep(self._settings.drain_timeout)
        self._situation.end_drain()
        self._executor.look_at_everything()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        """Leave once the node has drained: it has no claims, and no outstanding request can still get it one.

        When the drain has timed out, ends that the broker refuses are no reason to stay."""
        session, situation = self.session, self._situation
        if not situation.draining or not session.current or session.outstanding:
            return
        kept = session.refusals if situation.drain_ended else ()
        if all(task in kept for tasks in (self.runs, session.view.claims_of(self._me)) for task in tasks):
            self._left.set()

    def set_frozen(self, frozen: bool) -> None:
        """Announce that this node is frozen or unfrozen."""
        self.session.announce(dataclasses.replace(self.session.node, frozen=frozen))
        self._executor.look_at_everything()
