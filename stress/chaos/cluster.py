"""The cluster of a chaos run: real servers, nodes as processes, and a proxy between each node and each server.

At the end of the block of `open_chaos_cluster`, all servers and nodes are killed. If this process itself is killed, the
kernel kills its children.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from metafora_trio.contract import open_service_nursery
from metafora_trio.testing.history import EventName, History
from metafora_trio_zookeeper.testing.real import Ensemble, ProxyLoop, TcpProxy, open_ensemble

from .faults import FaultKind
from .records import FaultRecord, append_record

__all__ = ["JOINED", "TICK", "ChaosCluster", "ChaosNode", "Terms", "open_chaos_cluster"]

TICK = 0.5
"""ZooKeeper's tickTime in seconds. A follower then keeps serving for 5 s without its leader, longer than a session."""
JOINED = "joined"
"""The file in a node's folder with the name of the process that has joined last."""
_ELECTION = "-Dzookeeper.fastleader.maxNotificationInterval=1000"
"""A shorter limit for the pauses between votes. A proxy accepts connections to a dead server, so votes get lost where a
real network would refuse the connection. Servers repeat lost votes after pauses that double, by default up to a minute.
"""
_OVERRUN = 70
"""The exit status of a process that the library has ended because of an overrun."""
_LOOK = 0.2
"""Seconds between checks of the servers and of the proxies."""
_STALL = 1 / 8
"""The part of T for which the proxies may stand still. Heartbeats are late by then, and leases end at a half."""
_ROOT = Path(__file__).parents[2]
_SHIM = Path(__file__).parent / "shim.c"


@dataclass(frozen=True, slots=True)
class Terms:
    """The options of a run.

    Attributes:
        servers: the number of ZooKeeper servers.
        nodes: the number of nodes.
        tasks: the number of tasks submitted at the beginning.
        seconds: the seconds in which faults happen.
        seed: the seed of the schedule.
        session_timeout: T, in seconds.
        broken: the bug to run with: "lease", "fencing" or None.
        links: the way links are broken: "proxy" or "namespaces".
        poison: True to add poison.
        large: the number of tasks with properties of nearly 512 KiB that are a part of the poison.
    """

    servers: int = 3
    nodes: int = 5
    tasks: int = 200
    seconds: float = 120.0
    seed: int = 0
    session_timeout: float = 4.0
    broken: str | None = None
    links: str = "proxy"
    poison: bool = False
    large: int = 500


class ChaosNode:
    """One life of a node: one process.

    Attributes:
        name: the name of the node, which outlives the process.
        process: the name of this life in the history: `<name>.<life>`.
        ended: set when the process has ended.
        folder: its working directory, which contains its log.
        overran: True if it has ended itself because a scope had not closed by the end of the lease.
    """

    def __init__(
        self,
        name: str,
        process: str,
        popen: subprocess.Popen[bytes],
        folder: Path,
        history: History,
        *,
        exits_on_overrun: bool = False,
    ) -> None:
        self.name = name
        self.process = process
        self.folder = folder
        self.ended = trio.Event()
        self.overran = False
        self._exits_on_overrun = exits_on_overrun
        self._popen = popen
        self._history = history
        self._may_end = False

    async def watch(self, surprises: list[str]) -> None:
        """Wait for the end of the process, and record it. If the end was not expected, add it to the surprises."""
        handle = os.pidfd_open(self._popen.pid)
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)
        status = self._popen.wait()
        self._history.record(EventName.KILL, process=self.process)
        self.overran = self._exits_on_overrun and status == _OVERRUN
        # Even a node that may end must not end with an error.
        if not self.overran and (status > 0 or not self._may_end):
            surprises.append(f"{self.process} has ended by itself, with status {status}")
        self.ended.set()

    @property
    def joined(self) -> bool:
        """True if this process has joined the cluster."""
        marker = self.folder / JOINED
        return marker.exists() and marker.read_text() == self.process

    async def kill(self) -> None:
        """Kill the process, and wait until its death is recorded."""
        self._may_end = True
        self._popen.kill()
        await self.ended.wait()

    def drain(self) -> None:
        """Tell the process to hand over its tasks and to end."""
        self._may_end = True
        self._popen.send_signal(signal.SIGTERM)

    def expect_end(self) -> None:
        """Expect the process to end, because another command told it to."""
        self._may_end = True

    async def wait_ended(self, timeout: float) -> bool:
        """Wait for the end of the process, and kill it after `timeout` seconds. Return whether it was killed."""
        with trio.move_on_after(timeout):
            await self.ended.wait()
            return False
        await self.kill()
        return True

    def freeze(self) -> None:
        """Stop the process with SIGSTOP, and record it."""
        self._popen.send_signal(signal.SIGSTOP)
        self._history.record(EventName.FREEZE, process=self.process)

    def thaw(self) -> None:
        """Record the resume, and send SIGCONT. The process records its thaw itself when it gets a CPU."""
        self._history.record(EventName.RESUME, process=self.process)
        self._popen.send_signal(signal.SIGCONT)

    def destroy(self) -> None:
        """Kill the process and wait for its end, without Trio, so that cancellation cannot interrupt it."""
        self._may_end = True
        self._popen.kill()
        self._popen.wait()


class ChaosCluster:
    """The servers, nodes and links that the nemesis disturbs. `open_chaos_cluster` makes it.

    Attributes:
        terms: the options of the run.
        folder: the folder of the histories, logs and the store.
        ensemble: the servers.
        nodes: the latest life of each node by name, even if it has ended.
        history: records what is done to the nodes.
        away: the ids of the servers that were killed on purpose.
        surprises: unplanned events, such as a server that ended by itself.
        shim: the library that makes disks slow and clocks jump; None if it could not be built.
    """

    def __init__(
        self,
        terms: Terms,
        folder: Path,
        ensemble: Ensemble,
        proxies: ProxyLoop,
        nursery: trio.Nursery,
        shim: Path | None,
    ) -> None:
        self.terms = terms
        self.folder = folder
        self.ensemble = ensemble
        self.nodes: dict[str, ChaosNode] = {}
        (folder / "history").mkdir()
        self.history = History(folder / "history" / "nemesis.jsonl", process="nemesis")
        self.away: set[int] = set()
        self.surprises: list[str] = []
        self.shim = shim
        self._proxies = proxies
        self._nursery = nursery
        self._links: dict[str, list[TcpProxy]] = {}
        self._lives: dict[str, int] = {}

    def links(self, name: str) -> Sequence[TcpProxy]:
        """Return the proxies between a node and each server, in the order of the servers."""
        if name not in self._links:
            self._links[name] = [
                self._proxies.open("127.0.0.1", server.client_port) for server in self.ensemble.servers
            ]
        return self._links[name]

    def start(self, name: str, *, alias: str | None = None) -> ChaosNode:
        """Start a process for a node that has no running process.

        Args:
            name: the node's name in this run.
            alias: the name that it has in the cluster, if that is the name of another node.
        """
        self._lives[name] = self._lives.get(name, 0) + 1
        process = f"{name}.{self._lives[name]}"
        # Poison blocks event loops, so both answers to that are in the run.
        exits = self.terms.poison and name == f"n{self.terms.nodes}"
        folder = self.folder / "nodes" / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            # A frozen node would not notice that a pipe from this process was closed.
            *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),
            *(sys.executable, "-m", "stress.chaos.node", "--name", alias or name, "--process", process),
            *("--hosts", ",".join(link.address for link in self.links(name))),
            *("--history", str(self.folder / "history" / f"{process}.jsonl"), "--store", str(self.folder / "store.db")),
            *("--session-timeout", str(self.terms.session_timeout)),
            *(["--break", self.terms.broken] if self.terms.broken else []),
            *(["--on-overrun", "exit"] if exits else []),
        ]
        with (folder / "log.txt").open("ab") as log:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,  # Ctrl-C must reach only this process, which then ends the nodes
                env={
                    **os.environ,
                    **_preload(self.shim),
                    "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)]),
                },
            )
        node = self.nodes[name] = ChaosNode(name, process, popen, folder, self.history, exits_on_overrun=exits)
        self._nursery.start_soon(self._supervise, node)
        return node

    async def _supervise(self, node: ChaosNode) -> None:
        """Wait for the end of a process, and start the node again if the library has ended it."""
        await node.watch(self.surprises)
        if node.overran:
            self.restart(node.name)

    def restart(self, name: str) -> None:
        """Start a node if it has ended."""
        if name not in self.nodes or self.nodes[name].ended.is_set():
            self.start(name)

    async def watch_servers(self) -> None:
        """Until cancelled, add to the surprises each server that ends without being killed on purpose."""
        missing: set[int] = set()
        while True:
            dead = {server.id for server in self.ensemble.servers if not server.alive} - self.away
            for number in sorted(dead - missing):
                self.surprises.append(f"server s{number} has ended by itself")
            missing = dead
            await trio.sleep(_LOOK)

    async def watch_links(self) -> None:
        """Until cancelled, record each time in which the proxies did not run, as a fault of all links.

        No byte then passes between nodes and servers, because the machine is too busy. Only this run can know that: a
        node sees just that no answer comes.
        """
        while True:
            start = time.monotonic_ns()
            await trio.to_thread.run_sync(self._proxies.call, lambda: None)
            end = time.monotonic_ns()
            if end - start > self.terms.session_timeout * _STALL * 1e9:
                note = f"{(end - start) / 1e9:.1f} s"
                append_record(self.folder, FaultRecord(FaultKind.STALL, "", start, end, note=note))
            await trio.sleep(_LOOK)

    async def heal(self) -> None:
        """Undo all faults. Return when all servers serve and all nodes have been started."""
        for links in self._links.values():
            for link in links:
                link.delay(0.0)
                link.heal()
        await trio.to_thread.run_sync(self.ensemble.restore)
        for name in [f"n{number}" for number in range(1, self.terms.nodes + 1)]:
            self.restart(name)

    def destroy(self) -> None:
        """Kill all nodes, and save the logs of the servers."""
        for node in self.nodes.values():
            node.destroy()
        self.history.close()
        for server in self.ensemble.servers:
            (self.folder / f"s{server.id}.log").write_text(server.log)


def _heap(terms: Terms) -> str:
    """Return the heap of a server. It holds all tasks, and some copies of the large ones while it sends them."""
    return f"{128 + (2 * terms.large if terms.poison else 0)}m"


def _preload(shim: Path | None) -> dict[str, str]:
    return {"LD_PRELOAD": str(shim)} if shim is not None else {}


def _build_shim(folder: Path) -> Path | None:
    """Compile the shim. Return None if there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    built = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(_SHIM), "-ldl"], check=True)
    return built


@asynccontextmanager
async def open_chaos_cluster(terms: Terms, folder: Path) -> AsyncGenerator[ChaosCluster]:
    """Start the servers and the nodes for the duration of the block. Exceptions of the block are raised unwrapped.

    Raises:
        ZooKeeperNotInstalled: the message says what to install.
    """
    shim = await trio.to_thread.run_sync(_build_shim, folder)
    with ProxyLoop() as proxies:
        async with open_ensemble(
            terms.servers,
            tick_ms=round(TICK * 1000),
            linked=terms.servers > 1,
            jvm_heap=_heap(terms),
            jvm_options=[_ELECTION],
            environment=_preload(shim),
        ) as ensemble:
            async with open_service_nursery() as nursery:
                cluster = ChaosCluster(terms, folder, ensemble, proxies, nursery, shim)
                try:
                    for number in range(1, terms.nodes + 1):
                        cluster.start(f"n{number}")
                    nursery.start_soon(cluster.watch_servers)
                    nursery.start_soon(cluster.watch_links)
                    yield cluster
                finally:
                    cluster.destroy()
