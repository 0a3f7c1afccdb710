"""The nodes of a simulated cluster, and the handler that they run."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from metafora_trio import Consumer, Handler, Outcome, RunningTask

from ._monitor import Monitor
from ._runs import Place, WatchedRun

__all__ = ["SimulatedNode", "WatchedHandler"]


class SimulatedNode:
    """A node: a consumer, and where it runs.

    Attributes:
        name: the name of the node and of its place.
        consumer: the real consumer.
        place: where it runs.
        drained: whether `drain` was called; a drain command does not count.
    """

    def __init__(self, consumer: Consumer, place: Place) -> None:
        self.name: str = consumer.name
        self.consumer: Consumer = consumer
        self.place: Place = place
        self.drained: bool = False

    def drain(self) -> None:
        """Drain the node."""
        self.drained = True
        self.place.call(self.consumer.start_draining)

    @property
    def running(self) -> bool:
        """True until it dies or leaves, even while it is frozen."""
        return not (self.place.dead or self.place.ended)

    @property
    def frozen(self) -> bool:
        """True while its process is stopped."""
        return self.place.frozen

    @property
    def identity(self) -> str | None:
        """The identity of its session; None while it has none."""
        return self.consumer.statistics().node if self.running else None

    @property
    def leaving(self) -> bool:
        """True while it runs and has been told to drain."""
        return self.running and (self.drained or self.consumer.statistics().draining)

    def __repr__(self) -> str:
        return f"<SimulatedNode {self.name} {self.place!r}>"


class WatchedHandler:
    """A handler that reports every run to a monitor. By default a task runs until its run's `end` is set.

    Args:
        monitor: watches the runs.
        lingering: for each task, how many seconds it takes to end once it is cancelled, and whether it ignores its
            lease.
        handler: replaces the default.

    Attributes:
        place: where it runs.
    """

    place: Place

    def __init__(
        self, monitor: Monitor, lingering: Mapping[str, tuple[float, bool]], handler: Handler | None = None
    ) -> None:
        self._monitor = monitor
        self._lingering = lingering
        self._handler = handler

    async def __call__(self, task: RunningTask) -> Outcome | None:
        run = self._monitor.start(task.id, task.node, task.token, self.place)
        self._monitor.watch_lease(run, task)
        ended = True
        try:
            return await (self._wait(task, run) if self._handler is None else self._handler(task))
        except trio.Cancelled:
            ended = False
            raise
        finally:
            self._monitor.stop(run, ended=ended)

    async def _wait(self, task: RunningTask, run: WatchedRun) -> None:
        try:
            await run.end.wait()
        except trio.Cancelled:
            seconds, shield = self._lingering.get(task.id, (0.0, False))
            if shield:
                await self._overrun(task, run, seconds)  # noqa: ASYNC102 - shielded within
            else:
                with task.cleanup():
                    await trio.sleep(seconds)  # noqa: ASYNC102 - a shield with a bound
            raise
        if run.fails:
            raise RuntimeError("told to fail")

    async def _overrun(self, task: RunningTask, run: WatchedRun, seconds: float) -> None:
        """Take that long to end, whatever the lease, and set `run.overran` once the lease is over."""
        end = trio.current_time() + seconds
        with trio.CancelScope(shield=True):
            while (left := end - trio.current_time()) > 0:
                run.overran = task.lease.remaining() <= 0
                await trio.sleep(left if run.overran else min(left, task.lease.remaining()))
