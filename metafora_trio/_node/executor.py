"""Executor: makes the runs on this node match the view, one task at a time.

It asks the pure function `reconcile` for a task's actions and carries them out, in one synchronous step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import assert_never

import trio

from metafora_trio._model import reconcile as do
from metafora_trio._model.claim import Claim, ClaimKind
from metafora_trio._model.reconcile import RunState, reconcile
from metafora_trio._model.state import StateName, StopReason
from metafora_trio._running_task import RunningTask
from metafora_trio.contract import Session
from metafora_trio.events import Event, TaskClaimed, TaskEnded, TaskGivenUp, TaskStopping

from .planner import Planner
from .situation import Situation
from .task_run import TaskRun
from .task_runner import TaskRunner

__all__ = ["Executor"]


class Executor:
    """Owns the runs of one session.

    Args:
        session: takes the requests.
        situation: the state of this node, for `reconcile`.
        planner: is asked for more tasks when a run has ended, and notified of tasks that this node gets or gives back.
        runner: runs a claimed task.
        runs: every run, by task; filled here.
        running: the tasks whose scope is open and that have not been told to stop, by id; the
            runner adds to them, and they are removed here.
        grace: seconds between telling a task to stop and cancelling it.
        emit: reports an event.
        ended: called when a run's Trio task ends, even if the run still has an end to report or a claim to give up.

    Attributes:
        busy: the number of runs whose Trio task has not ended.
    """

    def __init__(
        self,
        session: Session,
        situation: Situation,
        planner: Planner,
        runner: TaskRunner,
        *,
        runs: dict[str, TaskRun],
        running: dict[str, RunningTask],
        grace: float,
        emit: Callable[[Event], None],
        ended: Callable[[], None],
    ) -> None:
        self._session = session
        self._situation = situation
        self._handovers = situation.handovers
        self._planner = planner
        self._runner = runner
        self._runs = runs
        self._running = running
        self._grace = grace
        self._emit = emit
        self._ended = ended
        self.busy: int = 0
        self._nursery: trio.Nursery | None = None
        self._cancelled = False

    # ---- opening and closing

    def open(self, nursery: trio.Nursery) -> None:
        """Allow tasks to start from now on, in this nursery."""
        self._nursery = nursery

    def close(self) -> None:
        """Start nothing more."""
        self._nursery = None

    def note_cancellation(self) -> None:
        """Note that every run is being cancelled: start nothing more, and tell each open run why it stops."""
        self._cancelled = True
        for run in self.open_runs():
            run.note_cancellation()

    def open_runs(self) -> list[TaskRun]:
        """Return the runs whose scope is open. Safe to call in another thread, because it copies `_runs` atomically."""
        return [run for run in list(self._runs.values()) if run.open]

    # ---- reconciling

    def look_at_everything(self) -> None:
        """Reconcile every task for which this node has a claim, a bid or a run."""
        if self._session.current:
            for task in self.parts():
                self.look_at(task)
        self._planner.tasks_changed()

    def parts(self) -> Collection[str]:
        """Return the tasks for which this node has a claim, a bid or a run."""
        claims = self._session.view.claims_of(self._situation.me)
        return {**dict.fromkeys(claims), **dict.fromkeys(self._runs)}

    def look_at_contested(self) -> None:
        """Reconcile the tasks for which this node has bid, and its own tasks for which another node has bid.

        Whether a bid is justified depends on loads, nodes and time, so it can change without an event of the task.
        """
        view, me = self._session.view, self._situation.me
        for task in [task for task in view.contested if view.own_claims(task, me)]:
            self.look_at(task)

    def answer_waiting_bids(self) -> None:
        """Answer bids that had to wait because too many tasks were being handed over."""
        if self._handovers.room_again():
            self.look_at_contested()

    def look_at(self, task: str) -> None:
        """Compare the desired state of one task with its actual state, and fix the difference."""
        if not self._session.current:
            return
        again = True
        while again:
            again = False
            run = self._runs.get(task)
            for action in reconcile(task, self._situation, run):
                again = self._carry_out(task, run, action) or again

    def report_ends(self) -> bool:
        """Reconcile the tasks with an end to report. Returns True if some are unconfirmed and have not been refused."""
        for run in self._finished():
            self.look_at(run.id)
        return bool(self._finished())

    def _finished(self) -> list[TaskRun]:
        refused = self._session.refusals
        return [run for run in self._runs.values() if run.state is RunState.FINISHED and run.id not in refused]

    # ---- actions. Each emits its event last: an observer may change the node, which reconciles the same task again.

    def _carry_out(self, task: str, run: TaskRun | None, action: do.Action) -> bool:
        """Carry out one action. Returns True if the task must be reconciled again now."""
        session = self._session
        match action:
            case do.Start(claim):
                self._start(task, claim)
            case do.Stop(reason, heir):
                assert run is not None
                self.stop(run, reason, heir)
            case do.Release(claim):
                session.release(claim)
                if claim == session.view.head(task):
                    self._emit(TaskGivenUp(self._situation.me, task, claim.seq))
            case do.Withdraw(claim, head):
                session.withdraw(claim, head)
            case do.HandOver(claim, heir_claim):
                session.hand_over(claim, heir_claim)
                self._emit(TaskGivenUp(self._situation.me, task, claim.seq, heir_claim.node))
            case do.Finish(claim, deleted):
                self._finish(run, claim, deleted)
            case do.Discard():
                assert run is not None
                run.discard_end()
                return True
            case do.Forget():
                assert run is not None
                self._forget(run)
                return True
            case _:
                assert_never(action)
        return False

    def _start(self, task: str, claim: Claim) -> None:
        if self._nursery is None or self._cancelled:
            return
        run = self._runs[task] = TaskRun(task, claim)
        self._planner.got(task)
        self.busy += 1
        self._nursery.start_soon(self._run_task, run, name=f"metafora task {task}")
        self._emit(TaskClaimed(self._situation.me, task, claim.seq))

    def stop(self, run: TaskRun, reason: StopReason, heir: str | None = None) -> None:
        """Tell a task to stop, on behalf of the node `heir` if it is a handover."""
        if run.state is RunState.CLOSING and run.reason is reason:
            return
        self._running.pop(run.id, None)
        self._planner.told_to_stop(run.id)
        if heir is not None:
            run.heir = heir
            self._handovers.begin(run.id)
        run.stop(reason, 0.0 if reason is StopReason.CLAIM_LOST else self._grace)
        self._emit(TaskStopping(self._situation.me, run.id, run.claim.seq, reason, heir))

    def give_back(self, task: str) -> bool:
        """Stop a running or opening task and give it to any node. This node does not take it again for a while.

        Returns:
            True if the task was running or opening here.
        """
        run = self._runs.get(task)
        if run is None or run.state not in (RunState.OPENING, RunState.RUNNING):
            return False
        run.give_back = True
        if run.state is RunState.RUNNING:
            self.stop(run, StopReason.RELEASED)
        return True

    def _finish(self, run: TaskRun | None, claim: Claim, deleted: bool) -> None:
        end = None if deleted else run.end if run is not None else None
        self._session.finish(claim, end)
        if claim.task in self._session.refusals:  # sent again: it was reported when it was sent for the first time
            return
        if end is None:
            self._emit(TaskEnded(self._situation.me, claim.task, claim.seq, StateName.KILLED))
        else:
            error = end.errors[-1].error if end.errors else ""
            self._emit(TaskEnded(self._situation.me, claim.task, claim.seq, end.state, error))

    def _forget(self, run: TaskRun) -> None:
        del self._runs[run.id]
        if run.heir is not None:
            self._handovers.end(run.id)
        if run.give_back:
            self._planner.leave_alone(run.id)

    # ---- one run, from start to end

    async def _run_task(self, run: TaskRun) -> None:
        try:
            if run.claim.kind is ClaimKind.CLAIM:  # a handover must have no gap, and only a few come at a time
                await self._planner.wait_turn()
            await self._runner.run(run)
        finally:
            self.busy -= 1
            self._running.pop(run.id, None)
            suspended = self._planner.ended(run)
            if run.heir is not None:
                self._handovers.close(run.id)
            if run.state is RunState.OPENING:
                del self._runs[run.id]
            self.look_at(run.id)
            if suspended:
                self.look_at_everything()  # withdraw the bids, and give up the tasks that have not started yet
            self.answer_waiting_bids()
            if not self._cancelled:
                self._planner.refill()
            self._ended()
