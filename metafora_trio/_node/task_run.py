"""The room of one task: its child nursery, its cancel scope, and how they end.

The order in here is the promise: the claim is looked at, and the clock, in the same synchronous step that
opens the scope; and the room says that it has closed only when nothing of the task runs any more.
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
from metafora_trio._running_task import Handler, RunningTask

__all__ = ["TaskRun", "failure"]

_MAX_TRACEBACK = 16 * 1024
"""Characters of a traceback that are kept, from its end."""


def failure(error: BaseException, now: datetime.datetime) -> TaskState:
    """The final state of a task whose handler raised."""
    text = "".join(traceback.format_exception(error))
    line = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]
    entry = TaskError(now, line[:1000], type(error).__name__, text[-_MAX_TRACEBACK:])
    return TaskState(StateName.FAILED, errors=(entry,))


def _the_error(error: Exception) -> Exception:
    """What the handler raised, without the group that its nursery put around it."""
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return error.exceptions[0]
    return error


@dataclass(slots=True, eq=False)
class TaskRun:
    """A task's runner and its scope.

    Attributes:
        id: the task's id.
        claim: the claim it runs under.
        state: where in its life it is.
        give_back: whether the task is to be given to anyone, heir or not.
        heir: the identity of who asked for the task.
        task: what the handler was given, once the scope is open.
        end: the final state to report, in FINISHED.
        stop_error: what the handler raised while it was being cancelled.
    """

    id: str
    claim: Claim
    state: RunState = RunState.OPENING
    give_back: bool = False
    heir: str | None = None
    task: RunningTask | None = None
    end: TaskState | None = None
    stop_error: BaseException | None = None
    _scope: trio.CancelScope | None = None

    @property
    def reason(self) -> StopReason | None:
        """Why the task must stop, as it has been told."""
        return self.task._reason if self.task is not None else None

    def stop(self, reason: StopReason, grace: float) -> None:
        """Tell the task to stop, and cancel its scope after `grace` seconds. For a room whose scope is open."""
        assert self.task is not None
        assert self._scope is not None
        self.state = RunState.CLOSING
        self.task._reason = reason
        if grace > 0:
            self._scope.deadline = trio.current_time() + grace
        else:
            # Before the event: a handler that waits for it and returns must not complete a task it has no time for.
            self._scope.cancel(reason=f"metafora: {reason}")
        self.task.stopping.set()

    async def run(
        self,
        handler: Handler,
        task: RunningTask,
        opened: Callable[[], None],
        now: Callable[[], datetime.datetime],
    ) -> None:
        """Run the handler in the scope; on return the scope has closed, and the state is CLOSED or FINISHED.

        `opened` is called in the same synchronous step in which this is. Cancellation from outside (the session is
        lost, the node shuts down) propagates, with the state CLOSED.

        Raises:
            TypeError: the handler is not async.
        """
        self.task = task
        self.state = RunState.RUNNING
        outcome: Outcome | None = None
        error: Exception | None = None
        ended = False
        not_async = ""
        try:
            with trio.CancelScope() as self._scope:
                opened()
                try:
                    async with trio.open_nursery() as task._nursery:
                        # After a freeze the lease may have run out while this was being scheduled.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        running: object = handler(task)
                        if isinstance(running, Awaitable):
                            outcome = await running
                            ended = True
                        else:
                            not_async = type(running).__name__
                except Exception as raised:  # noqa: BLE001 - whatever a user's handler raises is its end
                    error = _the_error(raised)
                except BaseExceptionGroup as group:
                    _, rest = group.split(trio.Cancelled)
                    if not isinstance(rest, Exception):
                        raise
                    error = _the_error(rest)
        finally:
            task._nursery = None
            self.state = RunState.CLOSED
        if not_async:  # a mistake of the node, not the end of the task: the next one would go the same way
            raise TypeError(f"the handler {handler!r} is not async: calling it returns {not_async}, nothing to await")
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
            wrong = TypeError(f"the handler returned {outcome!r}: return None, Outcome.DONE or Outcome.RELEASE")
            self._finish(failure(wrong, now()))

    def _finish(self, end: TaskState) -> None:
        self.end = end
        self.state = RunState.FINISHED
