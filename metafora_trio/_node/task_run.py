"""TaskRun: one run of a task on this node: its scope and nursery, and how they end.

The order of the steps is what keeps a task from running twice. The claim and the clock are checked in the same
synchronous step that opens the scope, and a run is CLOSED only when no part of the task runs any more.
"""

from __future__ import annotations

import datetime
import math
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from metafora_trio._model.claim import Claim
from metafora_trio._model.reconcile import RunState
from metafora_trio._model.state import Outcome, StateName, StopReason, TaskError, TaskState
from metafora_trio._running_task import Handler, RunControl, RunningTask

__all__ = ["TaskRun", "failure"]

_MAX_TRACEBACK = 16 * 1024
"""The number of characters of a traceback that are kept, from its end."""


def failure(error: BaseException, now: datetime.datetime) -> TaskState:
    """Return the final state of a task whose handler raised."""
    text = "".join(traceback.format_exception(error))
    line = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]
    entry = TaskError(now, line[:1000], type(error).__name__, text[-_MAX_TRACEBACK:])
    return TaskState(StateName.FAILED, errors=(entry,))


def _unwrapped(error: Exception) -> Exception:
    """Return the handler's exception without the group that its nursery put around it."""
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return error.exceptions[0]
    return error


@dataclass(slots=True, eq=False)
class TaskRun:
    """One run of a task: its scope and nursery, from the claim to the end.

    Attributes:
        id: the task's id.
        claim: the claim it runs under.
        state: the run's state.
        give_back: True to give the task to any node, not only to an heir.
        heir: the identity of the node that has bid for the task, if the run was stopped for a handover.
        end: the final state to report, in state FINISHED.
        opened_at: when the scope was opened, in Trio time; None if it never was.
        stop_error: the exception that the handler raised while it was being cancelled.
    """

    id: str
    claim: Claim
    state: RunState = RunState.OPENING
    give_back: bool = False
    heir: str | None = None
    end: TaskState | None = None
    opened_at: float | None = None
    stop_error: BaseException | None = None
    _control: RunControl | None = None
    _scope: trio.CancelScope | None = None

    @property
    def open(self) -> bool:
        """True while the scope is open."""
        return self.state in (RunState.RUNNING, RunState.CLOSING)

    @property
    def reason(self) -> StopReason | None:
        """The reason why the task was told to stop, or None."""
        return self._control.reason if self._control is not None else None

    def stop(self, reason: StopReason, grace: float) -> None:
        """Tell the task to stop, and cancel its scope after `grace` seconds. The scope must be open."""
        assert self._control is not None
        assert self._scope is not None
        self.state = RunState.CLOSING
        self._control.reason = reason
        if grace > 0:
            self._scope.deadline = trio.current_time() + grace
        else:
            # Cancel before setting the event. Otherwise a handler woken by `stopping` could return normally and
            # complete a task that it was told to give up.
            self._scope.cancel(reason=f"metafora: {reason}")
        self._control.stopping.set()

    def note_cancellation(self) -> None:
        """Record why the scope is being cancelled from outside, and shorten open shields to the end of the lease."""
        assert self._control is not None
        self._control.reason = self._control.stop_reason or StopReason.SHUTDOWN
        self._control.cut_shields()

    def fail(self, error: BaseException, now: datetime.datetime) -> None:
        """End the task as failed. The scope must be closed or never opened."""
        self._finish(failure(error, now))

    def discard_end(self) -> None:
        """Drop the end, because this node may no longer end the task."""
        self.end = None
        self.state = RunState.CLOSED

    async def run(
        self,
        handler: Handler,
        task: RunningTask,
        control: RunControl,
        *,
        opened: Callable[[RunningTask], None],
        now: Callable[[], datetime.datetime],
    ) -> None:
        """Open the scope and run the handler in it. On return it has closed, and the state is CLOSED or FINISHED.

        The scope opens, and `opened` is called with the task, in the same synchronous step as this call. Cancellation
        from outside (the session is lost, or the node shuts down) propagates and leaves the state CLOSED.

        Raises:
            TypeError: the handler is not async.
        """
        self._control = control
        self.state = RunState.RUNNING
        self.opened_at = trio.current_time()
        outcome: Outcome | None = None
        error: Exception | None = None
        ended = False
        not_async = ""
        try:
            with trio.CancelScope() as self._scope:
                opened(task)
                try:
                    async with trio.open_nursery() as control.nursery:
                        # If the process was frozen before this was scheduled, the lease may have run out.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        running: object = handler(task)
                        if isinstance(running, Awaitable):
                            outcome = await running
                            ended = True
                        else:
                            not_async = type(running).__name__
                except Exception as raised:  # noqa: BLE001 - any exception of a user's handler ends its task
                    error = _unwrapped(raised)
                except BaseExceptionGroup as group:
                    _, rest = group.split(trio.Cancelled)
                    if not isinstance(rest, Exception):
                        raise
                    error = _unwrapped(rest)
        finally:
            control.nursery = None
            self.state = RunState.CLOSED
        if not_async:  # a mistake in the program: it must not fail this task, since it would fail all others, too
            raise TypeError(f"the handler {handler!r} is not async: calling it returns {not_async}, not an awaitable")
        cancelled = self._scope.cancel_called or trio.current_effective_deadline() == -math.inf
        if error is not None and cancelled:
            self.stop_error = error
        elif error is not None:
            self._finish(failure(error, now()))
        elif ended and outcome is Outcome.RELEASE:
            self.give_back = True
        elif ended and (outcome is None or outcome is Outcome.DONE):
            self._finish(TaskState(StateName.COMPLETED))
        elif ended:
            wrong = TypeError(f"the handler must return None, Outcome.DONE or Outcome.RELEASE, not {outcome!r}")
            self._finish(failure(wrong, now()))

    def _finish(self, end: TaskState) -> None:
        self.end = end
        self.state = RunState.FINISHED
