"""Suspension: keeps this node from taking tasks while one task after another fails here, and announces that."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection

import trio

from metafora_trio._model.failure_streak import FailureStreak
from metafora_trio._model.reconcile import RunState
from metafora_trio._model.state import StateName
from metafora_trio.contract import Session
from metafora_trio.events import Event, NodeResumed, NodeSuspended

from .caution import Caution
from .notices import Notices
from .task_run import TaskRun

__all__ = ["Suspension"]


class Suspension:
    """Applies a node's failure streak in one session.

    Other nodes see a suspended node as full, so the plan gives it nothing. When it may try a task, it announces room
    for one more than it has, until it has asked for one.

    Args:
        session: announces this.
        streak: the failures in a row. It outlasts the session.
        capacity: the node's own limit.
        notices: what people should know about this node.
        emit: reports an event.
    """

    def __init__(
        self,
        session: Session,
        streak: FailureStreak,
        capacity: int | None,
        notices: Notices,
        emit: Callable[[Event], None],
    ) -> None:
        self._session = session
        self._me = session.node.identity
        self._streak = streak
        self._capacity = capacity
        self._notices = notices
        self._emit = emit
        self._reported = 0
        self._caution = Caution(streak.most)

    def may_run(self, task: str) -> bool:
        """Return whether this node may start a task."""
        return self._streak.may_run(task)

    def may_take(self) -> bool:
        """Return whether this node may ask for a task now."""
        return self._streak.may_take(trio.current_time())

    def take(self, task: str) -> None:
        """Note that this node has asked for a task."""
        self._streak.take(task)

    def start(self, task: str) -> None:
        """Note that a task's scope has opened here."""
        self._streak.start(task, trio.current_time())

    def told_to_stop(self, task: str) -> None:
        """Note that a running task was told to stop."""
        self._streak.told_to_stop(task)

    async def wait_turn(self) -> None:
        """Wait until one more task may start. Not a checkpoint if it may start now."""
        await self._caution.wait_turn()

    async def run(self) -> None:
        """Let tasks start by and by while it is not known that they do not fail at once. Runs forever."""
        await self._caution.run()

    def end(self, run: TaskRun) -> bool:
        """Note how a run has ended. Returns True if the node is now suspended, and was not before."""
        before = self._streak.suspended
        if run.state is not RunState.FINISHED or run.end is None or run.opened_at is None:
            self._streak.stop(run.id)
        elif run.end.state is StateName.FAILED and run.reason is not None:
            self._streak.stop(run.id)  # it failed while it was stopping, which it might not have done otherwise
        elif run.end.state is StateName.FAILED:
            now = trio.current_time()
            self._streak.fail(run.id, now - run.opened_at, now)
            self._caution.note_failure()
        else:
            self._streak.succeed()
            self._caution.end()
        if self._streak.suspended:
            self._caution.end()
        self._report()
        return self._streak.suspended and not before

    @property
    def trial_at(self) -> float:
        """When a suspended node may try the next task; infinite if it is not suspended, or tries one now."""
        streak = self._streak
        return streak.trial_at if streak.suspended and streak.trial is None else math.inf

    def look(self, runs: Collection[str]) -> None:
        """Note the tasks that have lasted, a trial that has come to nothing, and announce the room there is.

        Args:
            runs: the tasks with a run here.
        """
        streak, session = self._streak, self._session
        streak.look(trio.current_time())
        trial = streak.trial
        if trial is not None and not (
            trial in runs or session.is_pending(trial) or session.view.own_claims(trial, self._me)
        ):
            streak.stop(trial)
        self._report()
        capacity, full = self._capacity, session.free_claims <= session.pending
        if streak.suspended:
            if self.may_take():
                room = session.view.load(self._me) + 1
                capacity = room if capacity is None else min(capacity, room)
            else:
                full = True
        node = dataclasses.replace(session.node, capacity=capacity, full=full)
        if node != session.node:
            session.announce(node)

    def _report(self) -> None:
        failures = self._streak.failures if self._streak.suspended else 0
        if failures == self._reported:
            return
        self._reported = failures
        if failures:
            self._notices.report(
                "failing",
                f"the last {failures} tasks that it tried have failed: it takes no more, except one at a time on trial",
            )
            self._emit(NodeSuspended(self._me, failures, max(0.0, self._streak.trial_at - trio.current_time())))
        else:
            self._notices.clear("failing")
            self._emit(NodeResumed(self._me))
