"""The cluster of a benchmark: a ZooKeeper of its own, node processes, and an observer of their histories.

Servers and nodes end with the benchmark, however it ends. Normally they are killed. If this process is killed, they see
their pipes close and end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from metafora_trio import Task, open_client
from metafora_trio.contract import open_service_nursery
from metafora_trio.testing.history import EventName
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper.testing.real import open_ensemble

from .observer import Observer

__all__ = ["Cluster", "NodeProcess", "open_cluster"]

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT = 60.0
"""Seconds for a process to import everything, or to join. Many processes share the cores of a small machine."""


class NodeProcess:
    """A node process that runs `stress.bench.node`. `Cluster.load_node` makes it.

    Attributes:
        name: its name, which is also its process name in the histories.
        identity: the identity of its session; empty before it joins.
        pid: its process id.
    """

    def __init__(self, name: str, process: trio.Process, observer: Observer) -> None:
        self.name = name
        self.identity = ""
        self.pid = process.pid
        self._process = process
        self._observer = observer
        self._buffer = b""
        self._ending = False

    async def watch(self) -> None:
        """Wait until the process ends.

        Raises:
            RuntimeError: it ended by itself. Its standard error shows the reason.
        """
        status = await self._process.wait()
        if not self._ending:
            raise RuntimeError(f"node {self.name} has ended by itself, with status {status}")

    async def ask(self, command: str, *, timeout: float = _START_TIMEOUT) -> dict[str, Any]:
        """Send a command to the process, and return its answer.

        Raises:
            trio.TooSlowError: there was no answer within `timeout` seconds.
            trio.BrokenResourceError: the process has ended; `watch` raises the details.
        """
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{command}\n".encode())
        return await self.answer(timeout=timeout)

    async def answer(self, *, timeout: float = _START_TIMEOUT) -> dict[str, Any]:
        """Return its next answer. Raises the same errors as `ask`."""
        assert self._process.stdout is not None
        with trio.fail_after(timeout):
            while b"\n" not in self._buffer:
                part = await self._process.stdout.receive_some()
                if not part:
                    raise trio.BrokenResourceError(f"node {self.name} has ended")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def join(self) -> None:
        """Let the node join the cluster, and wait until it has."""
        self.identity = (await self.ask("join"))["joined"]

    async def kill(self) -> int:
        """Kill the process and wait for its end. Return the time of its death in nanoseconds of CLOCK_MONOTONIC."""
        self._ending = True
        self._process.kill()
        await self._process.wait()
        self._observer.look()
        return self._observer.note(EventName.KILL, process=self.name)

    async def aclose(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self._ending = True
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    await pipe.aclose()


class Cluster:
    """The servers, nodes and observer of a benchmark. `open_cluster` makes it.

    Attributes:
        hosts: ZooKeeper's addresses.
        observer: reads which tasks run from the nodes' histories.
        nodes: all nodes that were started, also those that have ended.
    """

    def __init__(self, hosts: str, folder: Path, nursery: trio.Nursery) -> None:
        self.hosts = hosts
        self.observer = Observer(folder)
        self.nodes: list[NodeProcess] = []
        self._started = trio.current_time()
        self._folder = folder
        self._nursery = nursery

    async def submit(self, count: int) -> None:
        """Submit `count` tasks, named 1 to `count`."""
        tasks = [Task(f"task-{n}", {}) for n in range(1, count + 1)]
        async with open_client(ZooKeeperCoordinator(self.hosts)) as client:
            await client.submit(tasks)
        self.observer.submitted(task.id for task in tasks)

    async def load_node(self, *, session_timeout: float = 10.0) -> NodeProcess:
        """Start a node process. When this returns, it has imported everything and waits for `join`."""
        name = f"n{len(self.nodes) + 1}"
        command = [
            *(sys.executable, "-m", "stress.bench.node", "--hosts", self.hosts, "--name", name),
            *("--history", str(self._folder / f"{name}.jsonl"), "--session-timeout", str(session_timeout)),
        ]
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,  # Ctrl-C must reach only this process, which then ends the nodes
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        node = NodeProcess(name, process, self.observer)
        self.nodes.append(node)
        self._nursery.start_soon(node.watch)
        await node.answer()
        return node

    async def load_nodes(self, count: int, *, session_timeout: float = 10.0) -> list[NodeProcess]:
        """Start several node processes."""
        return [await self.load_node(session_timeout=session_timeout) for _ in range(count)]

    async def join(self, nodes: Sequence[NodeProcess]) -> None:
        """Let nodes join at the same time."""
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.join)

    def say(self, what: str) -> None:
        """Report progress, on standard error."""
        print(f"[{trio.current_time() - self._started:5.1f} s] {what}", file=sys.stderr, flush=True)


@asynccontextmanager
async def open_cluster(servers: int) -> AsyncGenerator[Cluster]:
    """Start a ZooKeeper of `servers` servers for the duration of the block. At the end, end it and all nodes.

    Exceptions of the block are raised unwrapped.

    Raises:
        ZooKeeperNotInstalled: the message says what to install.
        RuntimeError: a node ended by itself; the block was cancelled.
    """
    async with open_ensemble(servers, tick_ms=500, jvm_heap="256m") as ensemble, open_service_nursery() as nursery:
        with tempfile.TemporaryDirectory(prefix="metafora-bench-") as folder:
            cluster = Cluster(ensemble.hosts, Path(folder), nursery)
            cluster.say(f"{servers} ZooKeeper server{'s' * (servers > 1)} at {cluster.hosts}")
            try:
                yield cluster
            finally:
                for node in cluster.nodes:
                    await node.aclose()
