"""The clusters of the demonstration: nodes in this process, or each node in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from metafora_trio import Consumer, Coordinator, CoordinatorUnavailable, MemoryCoordinator
from metafora_trio.cli._coordinators import coordinator_from_url
from metafora_trio.cli._exits import Failure
from metafora_trio.contract import Removable, open_service_nursery
from metafora_trio.testing.history import EventName, History, HistoryEvent

from .node import recording

__all__ = ["DemoCluster", "open_memory_cluster", "open_process_cluster"]

_JOIN_TIMEOUT = 30.0


class DemoCluster(ABC):
    """Nodes that can be started and crashed, and the history of what runs on them.

    Attributes:
        coordinator: for a client of the same cluster.
        how_crashed: how a node dies here, for people.
        patience: seconds within which every task must run again after whatever happens here.
        history: where what is done to the cluster is recorded.
    """

    coordinator: Coordinator
    how_crashed: str
    patience: float
    history: History

    @abstractmethod
    def now(self) -> int:
        """Read the clock of the history, in nanoseconds."""

    @abstractmethod
    async def start_node(self, name: str) -> None:
        """Start a node. Returns when it has joined."""

    @abstractmethod
    async def crash_node(self, name: str) -> None:
        """Kill a node without warning. Returns when it is dead."""

    @abstractmethod
    def events(self) -> list[HistoryEvent]:
        """Return everything that has happened so far, in order."""

    def logs(self) -> dict[str, str]:
        """Return what each node has written to its stderr, if it has one of its own."""
        return {}


class _MemoryCluster(DemoCluster):
    how_crashed = "its scope is cancelled, nothing it says counts"
    patience = 10.0

    def __init__(self, nursery: trio.Nursery) -> None:
        self.coordinator = self._memory = MemoryCoordinator()
        self.history = History(process="demo", now=self.now)
        self._nursery = nursery
        self._histories: list[History] = []
        self._running: dict[str, tuple[Consumer, trio.CancelScope, trio.Event]] = {}

    def now(self) -> int:
        return round(trio.current_time() * 1e9)

    async def start_node(self, name: str) -> None:
        history = History(process=name, now=self.now)
        self._histories.append(history)
        consumer = Consumer(self.coordinator, recording(history), name=name)
        scope, ended = trio.CancelScope(), trio.Event()

        async def run(task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - consumer.run calls started()
            with scope:
                await consumer.run(task_status=task_status)
            ended.set()

        await self._nursery.start(run)
        self._running[name] = consumer, scope, ended

    async def crash_node(self, name: str) -> None:
        consumer, scope, ended = self._running[name]
        identity = consumer.statistics().node
        if identity is not None:
            self._memory.crash(identity)
        scope.cancel(reason="the demonstration lets it crash")
        await ended.wait()
        self.history.record(EventName.KILL, process=name)

    def events(self) -> list[HistoryEvent]:
        # On virtual time a node stops its tasks in the same instant in which its death is recorded.
        return _in_order(event for history in (*self._histories, self.history) for event in history.events)


def _in_order(events: Iterable[HistoryEvent]) -> list[HistoryEvent]:
    return sorted(events, key=lambda event: event.t)


@asynccontextmanager
async def open_memory_cluster() -> AsyncGenerator[DemoCluster]:
    """Open a cluster in this process, which needs no broker."""
    async with open_service_nursery() as nursery:
        yield _MemoryCluster(nursery)


class _ProcessCluster(DemoCluster):
    how_crashed = "SIGKILL"

    def __init__(self, url: str, folder: Path, session_timeout: float) -> None:
        self.coordinator = coordinator_from_url(url)
        self.patience = 2 * session_timeout + 10.0
        self.history = History(folder / "demo.jsonl", process="demo")
        self._url = url
        self._folder = folder
        self.processes: dict[str, trio.Process] = {}

    def now(self) -> int:
        return time.monotonic_ns()

    async def start_node(self, name: str) -> None:
        command = [sys.executable, "-m", f"{__package__}.node", self._url, name, str(self._file(name))]
        with (self._folder / f"{name}.log").open("wb") as log:
            # A process group of its own: Ctrl-C in the terminal is the demonstration's alone.
            process = self.processes[name] = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, process_group=0
            )
        assert process.stdout is not None
        joined: bytes | bytearray = b""
        with trio.move_on_after(_JOIN_TIMEOUT):
            joined = await process.stdout.receive_some()
        if not joined:
            said = self.logs()[name][-2000:] or f"nothing heard for {_JOIN_TIMEOUT:g} s"
            raise Failure(f"node {name} did not join: {said}")

    async def crash_node(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        await process.wait()
        self.history.record(EventName.KILL, process=name)

    def events(self) -> list[HistoryEvent]:
        return _in_order(History.read(self._folder.glob("*.jsonl")))

    def logs(self) -> dict[str, str]:
        return {path.stem: path.read_text(errors="replace").strip() for path in self._folder.glob("*.log")}

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"

    async def stop(self) -> None:
        """Ask every process to end, and kill those that do not."""
        for process in self.processes.values():
            if process.stdin is not None:
                await process.stdin.aclose()
        with trio.move_on_after(5.0):
            for process in self.processes.values():
                await process.wait()
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


@asynccontextmanager
async def open_process_cluster(url: str, *, session_timeout: float) -> AsyncGenerator[DemoCluster]:
    """Open a cluster in a namespace of its own, with each node in a process of its own.

    On every way out the processes are stopped and the namespace is removed, shielded from cancellation (bounded by the
    coordinator's `connect_timeout`).

    Args:
        url: the cluster's URL.
        session_timeout: as in the URL, in seconds.
    """
    with TemporaryDirectory(prefix="metafora-demo-") as folder:
        cluster = _ProcessCluster(url, Path(folder), session_timeout)
        reachable = True
        try:
            yield cluster
        except CoordinatorUnavailable:
            reachable = False  # trying again to reach it would only double the wait
            raise
        finally:
            with trio.CancelScope(shield=True):
                await cluster.stop()
                cluster.history.close()
                if reachable and isinstance(cluster.coordinator, Removable):
                    await cluster.coordinator.remove()
