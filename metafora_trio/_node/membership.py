"""Membership: runs a node's part in one session, from joining the cluster until the node leaves or loses the session.

Three things run in one nursery inside the session's cancel scope: the follower, which reconciles the tasks that have
changed in the view; the planner, which from time to time computes which node should own which task; and the tasks.
Every decision is a synchronous step between two awaits, so nothing can change while it is made. Losing the session
cancels the nursery, because the session's scope surrounds it. A nursery ends with its last task, but the other tasks do
not wait for that one: each claim is given up when its own scope has closed.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping

import trio

from metafora_trio._running_task import Handler, RunningTask
from metafora_trio._service_nursery import open_service_nursery
from metafora_trio.contract import Changes, Session
from metafora_trio.events import Event, LeaseAtRisk

from .commands import Commands, NodeControl
from .executor import Executor
from .experience import Experience
from .handovers import Handovers
from .loop_monitor import LoopMonitor
from .missing_owners import MissingOwners
from .notices import Notices
from .planner import Planner
from .quarantine import Quarantine
from .settings import ConsumerSettings
from .situation import Situation
from .task_run import TaskRun
from .task_runner import TaskRunner
from .watchdog import watch

__all__ = ["Membership"]

_CHUNK = 256
"""The number of tasks to reconcile between two checkpoints: about 5 ms."""
_PROMPT = 0.1
"""Seconds for tasks to close when the node is cancelled. Until then nothing is given up, because if all have closed,
the end of the session gives up all claims in one transaction."""
_BEATS_PER_TIMEOUT = 24
"""Beats of the loop monitor. There are several between `cancel_at` and the end of the lease, about T/6 later."""
_BLOCKED_TIMEOUTS = 3
"""The session timeouts for which a blocked event loop keeps its session by default."""
_LAG_TO_REPORT = 1 / 12
"""The lag of the event loop, as a fraction of the session timeout, from which the node's record mentions it."""
_ENDING = "it has lost its session or is stopping, and waits for tasks that have not stopped"
_FLUSH_TIMEOUT = 2.0
"""Seconds to wait for the ends of tasks to reach the broker when the node is cancelled."""


class Membership:
    """Builds the parts of a node for one session, runs them, and leaves.

    Args:
        session: an open session; the caller closes it.
        handler: the user's handler.
        settings: the consumer's settings.
        control: the consumer, for commands whose effect outlasts the session.
        experience: what the consumer has learned so far.
        emit: reports an event.
        logger: for the watchdog, whose thread cannot report events.

    Attributes:
        session: the session.
        running: the tasks that run here and have not been told to stop, by id.
        runs: every run, by task.
        notices: what people should know about this node.
        loop: measures the event loop while the session is watched.
    """

    def __init__(
        self,
        session: Session,
        handler: Handler,
        settings: ConsumerSettings,
        control: NodeControl,
        experience: Experience,
        *,
        emit: Callable[[Event], None],
        logger: logging.Logger,
    ) -> None:
        self.session: Session = session
        self._settings = settings
        self._emit = emit
        self._logger = logger
        self._stuck = experience.stuck
        self._me = session.node.identity
        runs: dict[str, TaskRun] = {}
        running: dict[str, RunningTask] = {}
        self.runs: Mapping[str, TaskRun] = runs
        self.running: Mapping[str, RunningTask] = running
        self.notices: Notices = Notices(session)
        self.loop: LoopMonitor = LoopMonitor(session.session_timeout / _BEATS_PER_TIMEOUT)
        experience.begin_session()
        self._planner = Planner(session, settings, experience, self.notices, runs=runs, running=running, emit=emit)
        self._quarantine = Quarantine(session, self.notices, emit)
        handovers = Handovers(settings.max_handovers, patience=settings.grace + settings.cleanup_timeout)
        self._situation = Situation(session, self._planner, handovers)
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
                started=self._planner.started,
                emit=emit,
            ),
            runs=runs,
            running=running,
            grace=settings.grace,
            emit=emit,
            ended=self._on_run_ended,
        )
        self._commands = Commands(
            session, control, balance=self._planner.balance, give_back=self._executor.give_back, emit=emit
        )
        self._nursery: trio.Nursery | None = None
        self._left = trio.Event()
        self._ending: Callable[[], None] = lambda: None
        self._cancelled = False
        self._all_closed = trio.Event()

    # ---- the body

    async def run(self, *, ending: Callable[[], None]) -> None:
        """Run tasks until the node has drained. Losing the session and stopping the node cancel this from outside.

        Args:
            ending: called when the tasks are being cancelled or the node has drained. A scope that does not close may
                keep the membership running long after that.
        """
        self._ending = ending
        session, open_runs = self.session, self._executor.open_runs
        if not (session.watched and session.lease.finite):
            await self._run()
            return
        timeout = self._settings.blocked_timeout
        async with open_service_nursery() as helpers:
            helpers.start_soon(self.loop.run)
            with watch(
                session,
                self.loop,
                lambda: [run.id for run in open_runs()],
                on_overrun=self._settings.on_overrun,
                blocked_timeout=_BLOCKED_TIMEOUTS * session.session_timeout if timeout is None else timeout,
                logger=self._logger,
            ):
                await self._run()

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._executor.open(self._nursery)
                self._nursery.start_soon(self._follow)
                self._nursery.start_soon(self._keep_planning)
                self._nursery.start_soon(self._planner.run)
                self._nursery.start_soon(self._watch_risk)
                self._nursery.start_soon(self._wind_up)
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
            await self._reconcile_changes()
            self._quarantine.look_at_ends()
            self._commands.carry_out()
            self._planner.refill()
            self._leave_if_done()

    async def _reconcile_changes(self) -> None:
        """Wait until something has changed in the view, and reconcile it."""
        await self.session.wait_changed()
        changes = self.session.take_changes()
        if changes.everything:
            self._planner.view_changed()
        elif changes.nodes:
            self._planner.nodes_changed()
        if self.session.current:
            await self._look_at_changed(changes)
            self._executor.answer_waiting_bids()

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
            self._planner.tasks_changed(changes.tasks)

    async def _keep_planning(self) -> None:
        while True:
            self._report()
            await self._planner.wait_due()
            for task in self._planner.plan():
                self._executor.give_back(task)
            self._planner.refill()
            self._executor.look_at_contested()
            self._announce_slow_handovers()
            self._leave_if_done()

    def _report(self) -> None:
        """Bring the notices in this node's record up to date."""
        self._stuck.report(self.notices)
        if self.loop.lag > _LAG_TO_REPORT * self.session.session_timeout:
            self.notices.report("lag", f"its event loop was late by up to {self.loop.lag:.1f} s in the last minute")
        else:
            self.notices.clear("lag")
        self.notices.announce_if_due()

    def _announce_slow_handovers(self) -> None:
        slow = self._situation.handovers.slow()
        if slow != self.session.node.handing_over:
            self.session.announce(dataclasses.replace(self.session.node, handing_over=slow))

    async def _wind_up(self) -> None:
        """Wait until the nursery is cancelled: the session is lost, or the node stops. Then give up what has closed.

        Trio calls the abort function while cancelling, before any cancelled task runs. Handlers therefore already see
        `stop_reason`, and a task whose run has just closed is not started again.
        """

        def cancelled(_: object) -> trio.lowlevel.Abort:
            self._executor.note_cancellation()
            self._cancelled = True
            self._ending()
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(cancelled)
        finally:
            with trio.CancelScope(
                shield=True
            ):  # no longer than the scopes are open, which the nursery waits for anyway
                await self._give_up_closed()

    async def _give_up_closed(self) -> None:
        """Until every scope has closed, give up the claim of each task whose scope has. The others keep theirs."""
        if not self._executor.busy:
            return
        with trio.move_on_after(_PROMPT):
            await self._all_closed.wait()
            return
        self._situation.end()
        # Not as draining: other nodes would bid for the tasks that do not stop, and not count this as a lost session.
        self.session.announce(dataclasses.replace(self.session.node, frozen=True))
        self.notices.report("ending", _ENDING)
        self.notices.announce()
        self._executor.look_at_everything()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_reconciling)
            await self._all_closed.wait()
            nursery.cancel_scope.cancel()

    async def _keep_reconciling(self) -> None:
        while True:
            await self._reconcile_changes()

    def _on_run_ended(self) -> None:
        if self._cancelled and not self._executor.busy:
            self._all_closed.set()
        self._leave_if_done()

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
        end = min(trio.current_time() + _FLUSH_TIMEOUT, self.session.lease.end)
        with trio.CancelScope(shield=True, deadline=end):
            while self._executor.report_ends():
                await self.session.wait_changed()
                self.session.take_changes()

    # ---- control by the consumer

    def open_runs(self) -> list[TaskRun]:
        """Return the runs whose scope is open."""
        return self._executor.open_runs()

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
        if not session.node.draining or not session.current or session.outstanding:
            return
        kept = session.refusals if situation.drain_ended else ()
        if all(task in kept for tasks in (self.runs, session.view.claims_of(self._me)) for task in tasks):
            self._left.set()

    def set_frozen(self, frozen: bool) -> None:
        """Announce that this node is frozen or unfrozen."""
        self.session.announce(dataclasses.replace(self.session.node, frozen=frozen))
        self._executor.look_at_everything()
