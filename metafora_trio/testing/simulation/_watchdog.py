"""LeaseWatchdog: the watchdog on virtual time. It finds scopes that are still open after the end of their lease.

The real one is a thread, and threads know nothing of virtual time. This one looks from outside the processes, by calls
that the world makes, so that it changes nothing of what they do. When to report is decided by the same code.
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
        run: as the monitor knows it.
        task: as its handler sees it.
        detector: counts the looks at it.
    """

    run: WatchedRun
    task: RunningTask
    detector: OverrunDetector = field(default_factory=OverrunDetector)

    def open_tasks(self) -> list[str]:
        """Return the task if its scope is open. Its handler may have ended before what it started in its nursery."""
        try:
            _ = self.task.nursery
        except RuntimeError:
            return []
        return [self.task.id]


class LeaseWatchdog:
    """Watches the lease of every run.

    Args:
        world: for the time, and to be called again.
        report: takes each run that is open after the end of its lease, and by how many seconds.
    """

    def __init__(self, world: World, report: Callable[[WatchedRun, float], None]) -> None:
        self._world = world
        self._report = report
        self._frozen: defaultdict[Place, list[_WatchedLease]] = defaultdict(list)

    def watch(self, run: WatchedRun, task: RunningTask) -> None:
        """Watch the lease of a run from now on, until its scope closes or has been reported."""
        self._look(_WatchedLease(run, task))

    def thaw(self, place: Place) -> None:
        """A frozen place goes on, and with it its watchdog."""
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
