"""FailureStreak: decides when a node on which one task after another fails must stop taking tasks.

A node whose handler fails at once, for example after a bad deployment, always looks idle. It would go on taking tasks
until it has failed all of the cluster's. So after some failures in a row, without one success in between, the node is
suspended: it takes no task but one at a time, on trial, with a pause between two trials that doubles from 5 seconds to
5 minutes. The first success ends that. The trials never stop, because a node cannot know whether the tasks or its own
handler are to blame: if all nodes are suspended since many tasks have bad input, good tasks still get their turn.

Only failures of the last ten minutes count. Otherwise a node whose tasks never end would have no success between
failures that are days apart. A suspended node forgets none, because it may have had no task to try.

Tasks that run well here speak for the node: for each, it bears as many failures more. They run well if they have lasted
much longer than the failures did. So a few bad tasks that every node fails suspend no node that does its work.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["FailureStreak"]

_LASTED = 60.0
"""A run that has lasted so many seconds is a success, even if it fails later."""
_WELL, _WELL_FACTOR = 5.0, 20.0
"""A task runs well after so many seconds, and so many times as long as the longest failure of the streak."""
_TRACKED = 32
"""The maximum number of running tasks to follow. More would not change a decision."""
_PAUSE_FIRST, _PAUSE_MOST = 5.0, 300.0
_FORGOTTEN = 600.0
"""Seconds after which a failure no longer counts. This is much longer than the longest pause between two trials."""


class FailureStreak:
    """Counts the failures in a row. All times are in seconds, by the caller's clock.

    Args:
        most: the number of failures that suspend the node; None if none ever do.

    Attributes:
        most: the argument.
        trial: the task that a suspended node has taken or asked for on trial, or None.
        trial_at: when a suspended node may take the next task on trial.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.trial: str | None = None
        self.trial_at = -math.inf
        self._pause = 0.0
        self._longest = 0.0  # the longest failure of the streak, while there is one
        self._times: deque[float] = deque()  # when the failures that count were
        self._well = 0  # the number of tasks that run well, as of the last look
        self._started: dict[str, float] = {}  # some running tasks, by when they began

    @property
    def failures(self) -> int:
        """The number of failures that count: those since the last success that are not forgotten."""
        return len(self._times)

    @property
    def suspended(self) -> bool:
        return self.most is not None and self.failures >= self.most * (1 + self._well)

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
        """Note that a task has started: its scope has opened."""
        if len(self._started) < _TRACKED:
            self._started[task] = now

    def told_to_stop(self, task: str) -> None:
        """Note that a running task was told to stop. The time that it takes for that does not count."""
        self._started.pop(task, None)

    def fail(self, task: str, seconds: float, now: float) -> None:
        """Note that a task has failed after so many seconds."""
        self._started.pop(task, None)
        if seconds >= _LASTED:
            self.succeed()
            return
        if self.most is None:
            return
        self._forget(now)
        self._longest = max(self._longest, seconds)
        self._count(now)
        if not self.suspended:
            self._times.append(now)
            if self.suspended:
                self._pause = _PAUSE_FIRST
                self.trial_at = now + self._pause
        elif task == self.trial:  # others began before the node was suspended, and add nothing to what is known
            self._times.append(now)
            self._pause = min(2 * self._pause, _PAUSE_MOST)
            self.trial_at = now + self._pause
            self.trial = None

    def succeed(self) -> None:
        """Note that a task has been completed or has lasted."""
        self.trial = None
        self._times.clear()

    def stop(self, task: str) -> None:
        """Note that a task was stopped before it could fail or succeed, or was not got after all."""
        self._started.pop(task, None)
        if task == self.trial:
            self.trial = None

    def look(self, now: float) -> None:
        """Succeed if a task that began since the first failure has lasted. Call this from time to time."""
        first = self._times[0] if self._times else math.inf
        since = (began for began in self._started.values() if began >= first)
        if now - min(since, default=now) >= _LASTED:
            self.succeed()
        self._count(now)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Forget old failures, unless they have suspended the node."""
        if self.suspended:
            return
        while self._times and now - self._times[0] > _FORGOTTEN:
            self._times.popleft()
        if not self._times:
            self._longest = 0.0

    def _count(self, now: float) -> None:
        """Count the tasks that run well."""
        well = max(_WELL, _WELL_FACTOR * self._longest)
        self._well = sum(now - began >= well for began in self._started.values())
