"""Hosts for nodes: one process for each node, or one for all. Brokers use these to run nodes."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from ._faults import Fault
from ._world import Process

if TYPE_CHECKING:
    from ._broker import SimulationContext

__all__ = ["NodeProcesses", "SharedPlace", "SharedProcess"]


class NodeProcesses:
    """Runs each node, and the client, in a process of its own, which can be killed, stopped and resumed. With
    `notices_suspend`, its machine can be suspended.

    Args:
        context: the context that the broker received.
        notices_suspend: the maximum number of seconds after which a node must notice that its machine was suspended;
            None if the broker's coordinator cannot notice that. It learns by `Process.suspended` how long that was.
    """

    def __init__(self, context: SimulationContext, notices_suspend: float | None = None) -> None:
        self._context = context
        self._notices_suspend = notices_suspend
        self._suspended: set[str] = set()
        self._processes: dict[str, Process] = {}

    def spawn(self, name: str, async_function: Callable[[], Awaitable[object]], *, rate: float = 1.0) -> Process:
        """See `SimulatedBroker.spawn`."""
        process = self._processes[name] = self._context.world.spawn(name, async_function, rate=rate)
        return process

    @property
    def faults(self) -> Mapping[str, Fault]:
        """The faults of a process, for `SimulatedBroker.faults`."""
        faults = {"crash": Fault(self.crash), "pause": Fault(self.pause)}
        return faults if self._notices_suspend is None else {**faults, "suspend": Fault(self.suspend)}

    @property
    def remedies(self) -> Mapping[str, Callable[..., None]]:
        """The remedies for those faults, for `SimulatedBroker.remedies`."""
        return {"resume": self.resume}

    @property
    def names(self) -> Sequence[str]:
        """The names of all places: the client, and every node ever started."""
        return tuple(self._processes)

    def process_of(self, node: str) -> Process:
        """Return the process of a node, or of the client."""
        return self._processes[node]

    def crash(self, node: str) -> None:
        """Kill a node's process: SIGKILL."""
        process = self.process_of(node)
        self._context.world.kill(process)
        self._context.monitor.kill(process)

    def pause(self, node: str, seconds: float | None = None) -> None:
        """Stop a node's process (SIGSTOP), and resume it after some seconds (SIGCONT) unless that is None."""
        process = self.process_of(node)
        if not process.frozen:
            self._context.world.freeze(process)
            self._context.monitor.freeze(process)
        if seconds is not None:
            self._context.world.after(seconds, self.resume, node)

    def suspend(self, node: str, seconds: float | None = None) -> None:
        """Suspend a node's machine, and wake it after some seconds unless that is None. A process that is stopped
        already stays so, and no more than that."""
        process = self.process_of(node)
        if not process.frozen:
            self._suspended.add(node)
            self._context.world.suspend(process)
            self._context.monitor.freeze(process)
        if seconds is not None:
            self._context.world.after(seconds, self.resume, node)

    def resume(self, node: str) -> None:
        """Resume a node's process (SIGCONT), or wake its machine."""
        process = self.process_of(node)
        if process.frozen and not process.dead:
            within = self._notices_suspend if node in self._suspended else None
            self._suspended.discard(node)
            self._context.monitor.thaw(process, within or 0.0)
            self._context.world.thaw(process)

    def resume_all(self) -> None:
        """Resume every stopped process, and wake every suspended machine."""
        for node in self._processes:
            self.resume(node)


class SharedPlace:
    """The part of a `SharedProcess` that runs one node.

    Attributes:
        name: the name of the node.
        dead: whether it was killed.
        ended: whether its function has returned, also if that was only after it had been killed.
        frozen: always false, because a part of a process cannot be stopped.
        rate: always 1, because all parts share one clock.
    """

    frozen: bool = False
    rate: float = 1.0

    def __init__(self, name: str, process: Process) -> None:
        self.name: str = name
        self.dead: bool = False
        self.ended: bool = False
        self.scope: trio.CancelScope = trio.CancelScope()
        self._process = process

    @property
    def time(self) -> float:
        """The time on the clock, in seconds."""
        return self._process.time

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run a plain function in the process at once, unless the node has died or left."""
        if not (self.dead or self.ended):
            self._process.call(function, *args)

    def __repr__(self) -> str:
        state = "dead" if self.dead else "ended" if self.ended else "running"
        return f"<SharedPlace {self.name!r} {state}>"


class SharedProcess:
    """Runs the client and all nodes in one process, for a broker that lives in the same process.

    Args:
        context: the context that the broker received.
    """

    def __init__(self, context: SimulationContext) -> None:
        self._context = context
        self._send, self._receive = trio.open_memory_channel[Callable[[], Awaitable[None]]](math.inf)
        self._process = context.world.spawn("nodes", self._run)

    def spawn(self, name: str, async_function: Callable[[], Awaitable[object]], *, rate: float = 1.0) -> SharedPlace:
        """See `SimulatedBroker.spawn`."""
        if rate != 1.0:
            raise ValueError(f"{name} cannot have a clock of its own: all nodes share one process")
        place = SharedPlace(name, self._process)

        async def run() -> None:
            with place.scope:
                await async_function()
            place.ended = True

        self._process.call(self._send.send_nowait, run)
        return place

    def kill(self, place: SharedPlace) -> None:
        """Cancel the node at this place. Nothing that it still does counts."""
        place.dead = True
        self._context.monitor.kill(place)
        self._process.call(place.scope.cancel)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            async for run in self._receive:
                nursery.start_soon(run)
