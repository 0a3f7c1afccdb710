"""FailureStreak: decides when a node on which one task after another fails must stop taking tasks.

A node whose handler fails at once, for example after a bad deployment, always looks idle. It would go on taking tasks
until it has failed all of the cluster's. So after some failures in a row, without one success in between, the node is
suspended: it takes no task but one at a time, on trial, with a pause between two trials that doubles from 5 seconds to
5 minutes. The first success ends that. The trials never stop, because a node cannot know whether the tasks or its own
handler are to blame: if all nodes are suspended since many tasks have bad input, good tasks still get their turn.
"""

from __future__ import annotations

import math

__all__ = ["FailureStreak"]

_LASTED = 60.0
"""A run that has lasted so many seconds is a success, even if it fails later."""
_PAUSE_FIRST, _PAUSE_MOST = 5.0, 300.0


class FailureStreak:
    """Counts the failures in a row. All times are in seconds, by the caller's clock.

    Args:
        most: the number of failures that suspend the node; None if none ever do.

    Attributes:
        most: the argument.
        failures: the number of failures since the last success.
        trial: the task that a suspended node has taken or asked for on trial, or None.
        trial_at: when a suspended node may take the next task on trial.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.failures = 0
        self.trial: str | None = None
        self.trial_at = -math.inf
        self._pause = 0.0
        self._started: dict[str, float] = {}  # the running tasks that began since the first failure

    @property
    def suspended(self) -> bool:
        return self.most is not None and self.failures >= self.most

    def may_run(self, task: str) -> bool:
        """Return whether the node may start a task."""
        return not self.suspended or task == self.trial

    def may_take(self, now: float) -> bool:
        """Return whether the node may ask for a task."""
        return not self.suspended or (self.trial is None and now >= self.trial_at)

    def take(self, task: str) -> None:
        """Note that the node has asked for a task. If it is suspended, the task is on trial."""
        if self.suspended:
            self.trial = task

    def start(self, task: str, now: float) -> None:
        """Note that a task has started."""
        if self.failures:
            self._started[task] = now

    def fail(self, task: str, seconds: float, now: float) -> None:
        """Note that a task has failed after so many seconds."""
        if seconds >= _LASTED:
            self.succeed()
            return
        self._started.pop(task, None)
        if not self.suspended:
            self.failures += 1
            if self.suspended:
                self._pause = _PAUSE_FIRST
                self.trial_at = now + self._pause
        elif task == self.trial:  # others began before the node was suspended, and add nothing to what is known
            self.failures += 1
            self._pause = min(2 * self._pause, _PAUSE_MOST)
            self.trial_at = now + self._pause
            self.trial = None

    def succeed(self) -> None:
        """Note that a task has been completed or has lasted."""
        self.failures = 0
        self.trial = None
        self._started.clear()

    def stop(self, task: str) -> None:
        """Note that a task was stopped before it could fail or succeed, or was not got after all."""
        self._started.pop(task, None)
        if task == self.trial:
            self.trial = None

    def look(self, now: float) -> None:
        """Succeed if a task that began since the first failure has lasted. Call this from time to time."""
        oldest = next(iter(self._started.values()), now)
        if now - oldest >= _LASTED:
            self.succeed()
