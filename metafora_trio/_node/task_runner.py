"""TaskRunner: reads a claimed task, checks again that it may start, and runs the handler."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable

import trio

from metafora_trio._clock import Clock
from metafora_trio._errors import InvalidTask
from metafora_trio._model.props import decode_props
from metafora_trio._model.reconcile import RunState, may_open
from metafora_trio._running_task import Handler, RunControl, RunningTask
from metafora_trio.contract import Session, StoredTask, TaskRefused
from metafora_trio.events import Event, TaskOverran, TaskStarted, TaskStopFailed, TaskStopped

from .quarantine import Quarantine
from .situation import Situation
from .task_run import TaskRun

__all__ = ["TaskRunner"]

_OVERRUN_TOLERANCE = 0.05
"""Seconds that cancelling may take before an overrun is reported. A lease may be revoked at once, and a process that
was frozen past its lease needs a moment to cancel its tasks."""


class TaskRunner:
    """Runs the tasks of one session, each by one call of `run`.

    Args:
        session: reads tasks; its lease limits every run.
        situation: the state of this node, for the check before a scope opens.
        handler: the user's handler.
        quarantine: takes the tasks that cannot be read.
        running: the tasks whose scope is open and that need not stop, by id; added to here, in the step that opens one.
        cleanup_timeout: the maximum number of seconds for which `task.cleanup()` shields.
        clock: dates a failure.
        started: called with the id of each task whose scope has opened, in the same step.
        emit: reports an event.
    """

    def __init__(
        self,
        session: Session,
        situation: Situation,
        handler: Handler,
        quarantine: Quarantine,
        *,
        running: dict[str, RunningTask],
        cleanup_timeout: float,
        clock: Clock,
        started: Callable[[str], None],
        emit: Callable[[Event], None],
    ) -> None:
        self._session = session
        self._situation = situation
        self._handler = handler
        self._quarantine = quarantine
        self._running = running
        self._cleanup_timeout = cleanup_timeout
        self._now = clock.now
        self._started = started
        self._emit = emit
        self._on_opened = self._opened  # bound once: a node may run thousands of tasks, and each call keeps its own

    async def run(self, run: TaskRun) -> None:
        """Read the task and run its handler, unless the task may no longer start once it has been read.

        On return the run is OPENING (no scope was opened), CLOSED or FINISHED. A cancellation propagates.
        """
        stored = await self._read(run)
        if run.give_back and run.state is RunState.OPENING:
            run.discard_end()  # given back while it was being read
            return
        if stored is None:
            return
        session, me = self._session, self._situation.me
        control = RunControl(session.lease, self._cleanup_timeout)
        task = RunningTask(id=run.id, props=stored.props, node=me, token=run.claim.seq, control=control)
        try:
            await run.run(self._handler, task, control, opened=self._on_opened, now=self._now)
        finally:
            self._complete_end(run, stored, task)  # before the event: an observer may have the end reported at once
            late = trio.current_time() - session.lease.end
            self._emit(TaskStopped(me, run.id, run.claim.seq, task.stop_reason))
            if late > _OVERRUN_TOLERANCE:
                self._emit(TaskOverran(me, run.id, run.claim.seq, late))
        if run.stop_error is not None:
            self._emit(TaskStopFailed(me, run.id, run.claim.seq, run.stop_error))

    def _opened(self, task: RunningTask) -> None:
        self._running[task.id] = task
        self._started(task.id)
        self._emit(TaskStarted(task.node, task.id, task.token))

    def _complete_end(self, run: TaskRun, stored: StoredTask | None = None, task: RunningTask | None = None) -> None:
        """Add to the end of a run, if it has one, what is needed to understand it and to run the task again."""
        if run.end is None:
            return
        ended, started = self._now(), None
        if task is not None:
            started = ended - datetime.timedelta(seconds=trio.current_time() - task.started)
        props = None if stored is None else decode_props(run.id, stored.encoded)
        node, token = self._situation.me, run.claim.seq
        run.end = dataclasses.replace(run.end, props=props, node=node, token=token, started=started, ended=ended)

    async def _read(self, run: TaskRun) -> StoredTask | None:
        """Return the stored task, or None if after reading it the task may no longer start."""
        try:
            stored = await self._session.read(run.id)
        except InvalidTask as error:
            run.fail(error, self._now())
            self._complete_end(run)
            return None
        except TaskRefused as error:
            run.give_up()
            self._quarantine.set_aside(run.id, str(error))
            return None
        self._quarantine.has_read(run.id)
        if stored is None or stored.deleted or not self._session.current:
            return None  # the view shows the change, now or soon, and the task is reconciled again
        if not may_open(run.id, run.claim, self._situation):
            return None
        if trio.current_time() >= self._session.lease.cancel_at:
            return None
        return stored
