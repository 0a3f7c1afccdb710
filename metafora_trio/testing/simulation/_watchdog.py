"""LeaseWatchdog: the watchdog on virtual time. It finds scopes that are still open after the end of their lease.

The real watchdog is a thread, and threads do not follow virtual time. This one looks from outside the processes, in
calls that the world makes, so it does not affect them. The same `OverrunDetector` decides when to report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from metafora_trio import RunningTask
from metafora_trio._model.overrun import SECONDS_BETWEEN_LOOKS, OverrunDetector

from ._runs import Place, WatchedRun
from ._world import World

__all__ = ["LeaseWatchdog"]


@dataclass(slots=True)
class _WatchedLease:
    """The lease of one run.

    Attributes:
        run: the run, as known to the monitor.
        task: the task, as passed to the handler.
        detector: decides when to report the run.
    """

    run: WatchedRun
    task: RunningTask
    detector: OverrunDetector = field(default_factory=OverrunDetector)

    def open_tasks(self) -> list[str]:
        """Return the task if its scope is open. Its nursery may keep the scope open after the handler has ended."""
        try:
            _ = self.task.nursery
        except RuntimeError:
            return []
        return [self.task.id]


class LeaseWatchdog:
    """Watches the lease of every run.

    Args:
        world: provides the time.
        report: called with a run whose scope is still open after the end of its lease, and the seconds since that end.
    """

    def __init__(self, world: World, report: Callable[[WatchedRun, float], None]) -> None:
        self._world = world
        self._report = report
        self._frozen: defaultdict[Place, list[_WatchedLease]] = defaultdict(list)

    def watch(self, run: WatchedRun, task: RunningTask) -> None:
        """Watch the lease of a run until its scope closes or an overrun has been reported."""
        self._look(_WatchedLease(run, task))

    def thaw(self, place: Place) -> None:
        """Resume watching the leases of a place that resumes."""
        for watched in self._frozen.pop(place, ()):
            self._world.after(SECONDS_BETWEEN_LOOKS, self._look, watched)

    def _look(self, watched: _WatchedLease) -> None:
        place = watched.run.place
        if place.dead or not watched.open_tasks():
            return
        if place.frozen:
            self._frozen[place].append(watched)
            return
        now, end = place.time, watched.task.lease.end
        if watched.detector.look(now, end, watched.open_tasks):
            self._report(watched.run, now - end)
            return
        pause = watched.detector.until_next_look(now, end)
        if pause < float("inf"):
            self._world.after(pause / place.rate, self._look, watched)
