"""WatchedHandler: the handler of a simulated cluster. It checks what a user's handler sees."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from metafora_trio import Handler, Outcome, RunningTask, StopReason
from metafora_trio.contract import node_name

from ._client import Expectations
from ._monitor import Monitor
from ._runs import Place, WatchedRun

__all__ = ["WatchedHandler"]

_CHILD_OUTLIVES = 0.01
"""Seconds for which the child of the default handler outlives the handler."""
_HARMLESS = ("linger", "start_sequences", "limit_timeout")
"""Faults that end neither a session nor a claim."""
_NEEDS_A_FAULT = (StopReason.CLAIM_LOST, StopReason.SESSION_LOST)


class WatchedHandler:
    """A handler that reports every run to a monitor, and checks the properties and the reason to stop.

    By default a task runs until its run's `end` is set. Such a run has a child in `task.nursery`, which ends a moment
    later than the handler. The run has stopped once both have ended.

    Args:
        monitor: watches the runs.
        expectations: the clients' requests.
        fault_counts: how often each fault was inflicted so far, by name.
        lingering: for each task, how many seconds it takes to end once it is cancelled, and whether it ignores its
            lease.
        handler: replaces the default.
        may_release: whether the node's balancer may give tasks back by itself.

    Attributes:
        place: where it runs.
    """

    place: Place

    def __init__(
        self,
        monitor: Monitor,
        expectations: Expectations,
        fault_counts: Mapping[str, int],
        lingering: Mapping[str, tuple[float, bool]],
        handler: Handler | None = None,
        *,
        may_release: bool = False,
    ) -> None:
        self._monitor = monitor
        self._expectations = expectations
        self._fault_counts = fault_counts
        self._lingering = lingering
        self._handler = handler
        self._may_release = may_release

    async def __call__(self, task: RunningTask) -> Outcome | None:
        run = self._monitor.start(task.id, task.node, task.token, self.place)
        self._monitor.watch_lease(run, task)
        self._report(run, self._expectations.submissions.started(task.id, task.props))
        ended = True
        try:
            return await (self._wait(task, run) if self._handler is None else self._handler(task))
        except trio.Cancelled:
            ended = False
            raise
        finally:
            run.ended = ended
            self._part_ended(task, run)

    async def _wait(self, task: RunningTask, run: WatchedRun) -> None:
        run.parts += 1
        task.nursery.start_soon(self._be_child, task, run)
        try:
            await run.end.wait()
        except trio.Cancelled:
            self._report(run, self._unexplained(task))
            if task.stop_reason is StopReason.SESSION_LOST:
                # Before the task has stopped: the node may give up other claims while this one still closes.
                self._monitor.lost.add(task.node)
            await self._linger(task, run)  # noqa: ASYNC102 - shielded within
            raise
        if run.fails:
            raise RuntimeError("told to fail")

    async def _be_child(self, task: RunningTask, run: WatchedRun) -> None:
        try:
            await run.end.wait()
            await trio.sleep(_CHILD_OUTLIVES)
        except trio.Cancelled:
            await self._linger(task, run, _CHILD_OUTLIVES)  # noqa: ASYNC102 - shielded within
            raise
        finally:
            self._part_ended(task, run)

    async def _linger(self, task: RunningTask, run: WatchedRun, longer: float = 0.0) -> None:
        """Take as long to end as `lingering` says. Called while the task is being cancelled."""
        seconds, shield = self._lingering.get(task.id, (0.0, False))
        if shield:
            await self._overrun(task, run, seconds + longer)
        elif seconds:
            with task.cleanup():
                await trio.sleep(seconds + longer)

    async def _overrun(self, task: RunningTask, run: WatchedRun, seconds: float) -> None:
        """Take that long to end, whatever the lease."""
        run.ignored = task.lease
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    def _part_ended(self, task: RunningTask, run: WatchedRun) -> None:
        run.parts -= 1
        if not run.parts:
            if not task.lease.remaining():  # whatever else it was told to stop for before
                self._monitor.lost.add(task.node)
            self._monitor.stop(run, ended=run.ended)

    def _report(self, run: WatchedRun, problem: str) -> None:
        if problem and self._monitor.counts(run):
            self._monitor.violation(f"{run}: {problem}")

    def _unexplained(self, task: RunningTask) -> str:
        """Return what is wrong with the task's reason to stop, or an empty string."""
        expected, reason = self._expectations, task.stop_reason
        leaves = node_name(task.node) in expected.leaving
        match reason:
            case None:
                return "it is cancelled without a reason"
            case StopReason.RELEASED if not (expected.stopped[task.id] or self._may_release):
                return "it is released, but neither a client nor the balancer asked for that"
            case StopReason.DELETED if task.id not in expected.deleted:
                return "it stops as deleted, but no client deleted it"
            case StopReason.DRAINED | StopReason.SHUTDOWN if not leaves:
                return f"it stops because the node leaves ({reason}), but nobody told the node to"
            case _ if reason in _NEEDS_A_FAULT and not self._fault_counts.keys() - _HARMLESS:
                return f"it stops with {reason}, but there was no fault"
        return ""
