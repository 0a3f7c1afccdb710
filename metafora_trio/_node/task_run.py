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
from metafora_trio._model.json_record import printable, shorten
from metafora_trio._model.reconcile import RunState
from metafora_trio._model.state import (
    MAX_ERROR,
    MAX_TRACEBACK,
    Outcome,
    StateName,
    StopReason,
    TaskError,
    TaskState,
)
from metafora_trio._running_task import Handler, RunControl, RunningTask

__all__ = ["TaskRun", "failure"]

_MAX_NESTING = 50
"""Levels of exception groups inside each other. Python splits a group by recursion, and Trio splits what passes a
nursery: at some hundred levels that fails, and takes the node with it."""


def failure(error: BaseException, now: datetime.datetime) -> TaskState:
    """Return the final state of a task whose handler raised."""
    try:
        text = "".join(traceback.format_exception(error))
        line = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]
    except Exception as why:  # noqa: BLE001 - such as a SyntaxError whose line number is no number
        line = text = f"{type(error).__name__} (it cannot be shown: {type(why).__name__})"
    entry = TaskError(now, printable(line[:MAX_ERROR]), type(error).__name__, printable(text[-MAX_TRACEBACK:]))
    return TaskState(StateName.FAILED, errors=(entry,))


def _error_of(raised: BaseException) -> BaseException | None:
    """Return the handler's own error in what left its nursery, or None if there is none.

    Whatever a handler raises is its task's error, and so is `SystemExit`: if it ended this process, the task would go
    on to end every other node. Only a `KeyboardInterrupt` is meant for the program.
    """
    group = raised if isinstance(raised, BaseExceptionGroup) else BaseExceptionGroup("", [raised])
    _, own = group.split(trio.Cancelled)
    if own is None or own.subgroup(KeyboardInterrupt) is not None:
        return None
    return own.exceptions[0] if len(own.exceptions) == 1 else own


def _raisable(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return a group that a handler raised, or an error in its place if it is nested too deeply for Trio to split."""
    level: list[BaseException] = [group]
    for _ in range(_MAX_NESTING):
        level = [inner for outer in level if isinstance(outer, BaseExceptionGroup) for inner in outer.exceptions]
        if not level:
            return group
    return RuntimeError(f"the handler raised an exception group that is nested deeper than {_MAX_NESTING} levels")


def _awaitable(handler: Handler, task: RunningTask) -> Awaitable[Outcome | None]:
    """Call the handler. Raises `TypeError` if it is not async."""
    running: object = handler(task)
    if isinstance(running, Awaitable):
        return running
    raise TypeError(
        f"the handler {handler!r} is not async: calling it returns {type(running).__name__}, not an awaitable"
    )


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

    @property
    def trio_task(self) -> trio.lowlevel.Task | None:
        """The Trio task that runs the handler while the scope is open, otherwise None."""
        nursery = self._control.nursery if self._control is not None else None
        return None if nursery is None else nursery.parent_task

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

    def give_up(self) -> None:
        """Give the task to any node. The scope must never have been opened."""
        self.give_back = True
        self.state = RunState.CLOSED

    def note_cancellation(self) -> None:
        """Record that the open scope is being cancelled from outside, and why."""
        assert self._control is not None
        self.state = RunState.CLOSING
        self._control.reason = self._control.stop_reason or StopReason.SHUTDOWN

    def fail(self, error: BaseException, now: datetime.datetime) -> None:
        """End the task as failed. The scope must be closed or never opened."""
        self._finish(failure(error, now))

    def discard_end(self) -> None:
        """Drop the end, because this node may no longer end the task or is to give it back without running it."""
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
        from outside (the session is lost, or the node shuts down) propagates and leaves the state CLOSED, and so does
        a `KeyboardInterrupt`.
        """
        self._control = control
        self.state = RunState.RUNNING
        self.opened_at = trio.current_time()
        outcome: Outcome | None = None
        error: BaseException | None = None
        ended = False
        try:
            with trio.CancelScope() as self._scope:
                opened(task)
                try:
                    async with trio.open_nursery() as control.nursery:
                        # If the process was frozen before this was scheduled, the lease may have run out.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        try:
                            outcome = await _awaitable(handler, task)
                            ended = True
                        except BaseExceptionGroup as group:
                            raise _raisable(group)  # noqa: B904 - usually the group itself
                except BaseException as raised:  # noqa: ASYNC103 - `_error_of` has Cancelled raised again
                    error = _error_of(raised)
                    if error is None:
                        raise
        finally:
            control.nursery = None
            self.state = RunState.CLOSED
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
            wrong = TypeError(f"the handler must return None, Outcome.DONE or Outcome.RELEASE, not {shorten(outcome)}")
            self._finish(failure(wrong, now()))
        elif not cancelled:  # otherwise it would start again at once, and for ever
            stopped = RuntimeError("the task's nursery was cancelled from inside, so the handler did not end by itself")
            self._finish(failure(stopped, now()))

    def _finish(self, end: TaskState) -> None:
        self.end = end
        self.state = RunState.FINISHED
