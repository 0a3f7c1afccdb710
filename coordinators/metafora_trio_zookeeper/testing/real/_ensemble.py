"""Ensemble: real ZooKeeper servers as plain processes on this machine, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

import trio

from ._proxy import ProxyLoop, TcpProxy
from ._server import HOST, Server

__all__ = ["Ensemble", "EnsembleError", "EnsembleOptions", "free_ports", "open_ensemble"]

# Below Linux's range of outgoing ports: a port from that range could be taken while its server is killed.
_PORTS = range(15000, 32000)
_ATTEMPTS = 5
_POLL = 0.02
_LEADER_READY = 1.0
"""Seconds from the election of a leader until it listens. A follower may connect before that. If its connection broke
instead of being refused, it would start a new election."""


class EnsembleError(RuntimeError):
    """The servers did not start; the message includes the end of their logs."""


class EnsembleOptions(TypedDict, total=False):
    """The keyword arguments of `Ensemble` and `open_ensemble`, documented at `Ensemble`."""

    tick_ms: int
    directory: Path | None
    jvm_heap: str
    linked: bool
    config: Mapping[str, object] | None
    jvm_options: Sequence[str]
    environment: Mapping[str, str] | None


class Ensemble:
    """Three ZooKeeper servers (or any number; one runs standalone) on free ports of 127.0.0.1.

    The methods are plain calls. Those that wait for servers block, as documented. In Trio, call them through
    `trio.to_thread.run_sync`; `open_ensemble` does so for start and stop.

    As a context manager, it starts the servers on entry; on exit it kills them and removes their data.

    Args:
        servers: the number of servers.
        tick_ms: ZooKeeper's tickTime, in ms. Session timeouts are 2 to 20 ticks; a follower gives its leader up after
            10 ticks without contact.
        directory: where to keep the data, which is then not removed; by default a temporary folder, in memory if
            possible.
        jvm_heap: the value for Java's -Xmx.
        linked: whether to route the connections between servers through proxies, as `isolate` needs.
        config: further settings for zoo.cfg, which override ours.
        jvm_options: further options for Java.
        environment: further environment variables for the servers.

    Raises:
        ZooKeeperNotInstalled: from `start`; the message says what to install.
    """

    def __init__(
        self,
        servers: int = 3,
        *,
        tick_ms: int = 200,
        directory: Path | None = None,
        jvm_heap: str = "64m",
        linked: bool = False,
        config: Mapping[str, object] | None = None,
        jvm_options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._count = servers
        self._directory = directory
        self._linked = linked
        self._config = {
            "tickTime": tick_ms,
            "initLimit": 25,
            "syncLimit": 10,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
            "maxClientCnxns": 0,
            **(config or {}),
        }
        self._jvm_options = (f"-Xmx{jvm_heap}", *jvm_options)
        self._environment = {**os.environ, **(environment or {})}
        self._folder: Path | None = None
        self._starter = ThreadPoolExecutor(1, "ensemble")
        self._proxies: ProxyLoop | None = None
        self._links: dict[tuple[int, int], list[TcpProxy]] = {}
        self.servers: list[Server] = []

    @property
    def hosts(self) -> str:
        """`host:port,host:port,...` for clients."""
        return ",".join(server.address for server in self.servers)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout: float = 60.0) -> None:
        """Start all servers and wait until all serve. Blocks for about 2 s, and `timeout` seconds at most.

        Raises:
            ZooKeeperNotInstalled, EnsembleError.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._prepare()
                for server in self.servers:
                    server.start()
                self.wait_ready(timeout)
                return
            except BaseException as error:  # noqa: ASYNC103 - it is raised below or within
                self.stop()
                # Another program may take a port after we chose it and before the server binds it.
                taken = isinstance(error, EnsembleError) and "already in use" in str(error)
                if not taken or attempt == _ATTEMPTS:
                    raise

    def stop(self) -> None:
        """Kill all servers and remove their data. Idempotent."""
        for server in self.servers:
            server.kill()
        if self._proxies is not None:
            self._proxies.__exit__(None, None, None)
            self._proxies = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None
        self.servers = []

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until all running servers serve, one of them as the leader. Blocks.

        Raises:
            EnsembleError: a server exited, or they do not all serve within `timeout` seconds.
        """
        end = time.monotonic() + timeout
        expected = [server for server in self.servers if server.alive]
        while True:
            modes = [server.mode() for server in expected]
            if {"leader", "standalone"} & set(modes) and all(mode not in (None, "not serving") for mode in modes):
                return
            if time.monotonic() > end or not all(server.alive for server in expected):
                logs = [
                    f"server {one.id}: {mode}\n{one.log[-2000:]}" for one, mode in zip(expected, modes, strict=True)
                ]
                raise EnsembleError("\n".join([f"no ZooKeeper ensemble in {timeout} s", *logs]))
            time.sleep(_POLL)  # poll, because a server does not announce when it serves; `timeout` bounds this

    def leader(self) -> Server | None:
        """Return the server that leads now (or runs standalone), if any. Blocks, up to 1 s for each paused server."""
        return next((server for server in self._living() if server.mode() in ("leader", "standalone")), None)

    def followers(self) -> list[Server]:
        """Return the servers that follow a leader now. Blocks like `leader`."""
        return [server for server in self._living() if server.mode() == "follower"]

    def server(self, address: str) -> Server:
        """Return the server at this `host:port`, such as the one a client reports as in use."""
        return next(server for server in self.servers if server.address == address)

    def isolate(self, server: Server) -> None:
        """Cut `server` off from all other servers; its clients stay connected. Needs `linked`."""
        self._require_links()
        for pair, proxies in self._links.items():
            if server.id in pair:
                for proxy in proxies:
                    # Refuse new ones, because a connection that is accepted but silent would delay the next election.
                    proxy.cut(refuse=True)

    def cut(self, one: Server, other: Server, *, one_way: bool = False) -> None:
        """Cut two servers from each other. With `one_way`, hold only what `one` sends to `other`. Needs `linked`."""
        self._require_links()
        for proxy in self._links[one.id, other.id]:
            proxy.cut(down=not one_way, refuse=not one_way)
        for proxy in self._links[other.id, one.id]:
            proxy.cut(up=not one_way, refuse=not one_way)

    def heal(self) -> None:
        """Undo every `isolate` and `cut`, and resume paused servers. Killed servers are not started."""
        for proxies in self._links.values():
            for proxy in proxies:
                proxy.heal()
        for server in self._living():
            server.resume()

    def restore(self, timeout: float = 60.0) -> None:
        """Heal, start the killed servers, and wait until all serve. Blocks."""
        self.heal()
        for server in self.servers:
            if not server.alive:
                server.start()
        self.wait_ready(timeout)

    def _living(self) -> list[Server]:
        return [server for server in self.servers if server.alive]

    def _require_links(self) -> None:
        if not self._links:
            raise ValueError("isolate() and cut() need an ensemble created with linked=True")

    def _prepare(self) -> None:
        """Make new folders, ports, proxies and servers."""
        if self._directory is None:
            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            self._folder = base = Path(tempfile.mkdtemp(prefix="zookeeper-", dir=memory))
        else:
            base = self._directory
        ports = free_ports(3 * self._count)
        self.servers = [
            Server(
                id=number,
                client_port=ports.pop(),
                quorum_port=ports.pop(),
                election_port=ports.pop(),
                folder=base / f"server{number}",
                starter=self._starter,
                jvm_options=self._jvm_options,
                environment=self._environment,
            )
            for number in range(1, self._count + 1)
        ]
        if self._linked:
            self._proxies = ProxyLoop().__enter__()
            self._links = {
                (one.id, other.id): [
                    self._proxies.open(HOST, port, patience=patience)
                    for port, patience in ((other.quorum_port, _LEADER_READY), (other.election_port, 0.0))
                ]
                for one in self.servers
                for other in self.servers
                if one is not other
            }
        for server in self.servers:
            server.configure([*(f"{key}={value}" for key, value in self._config.items()), *self._members(server)])

    def _members(self, server: Server) -> Iterable[str]:
        """Return the configuration lines that list the servers for `server`: if linked, the others by their proxies."""
        if self._count == 1:
            return [f"clientPort={server.client_port}", f"clientPortAddress={HOST}"]
        lines = []
        for other in self.servers:
            quorum, election = other.quorum_port, other.election_port
            if other is not server and self._links:
                quorum, election = (proxy.port for proxy in self._links[server.id, other.id])
            lines.append(f"server.{other.id}={HOST}:{quorum}:{election};{HOST}:{other.client_port}")
        return lines


@contextlib.asynccontextmanager
async def open_ensemble(servers: int = 3, **options: Unpack[EnsembleOptions]) -> AsyncGenerator[Ensemble]:
    """Run an `Ensemble` (see there for the arguments) for the length of the block, without blocking Trio.

    Raises:
        ZooKeeperNotInstalled, EnsembleError: the servers did not start.
    """
    ensemble = Ensemble(servers, **options)
    try:
        await trio.to_thread.run_sync(ensemble.start)
        yield ensemble
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(ensemble.stop)


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports of 127.0.0.1 that are free now and that no outgoing connection will take."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(_PORTS, len(_PORTS)):
            taking = held.enter_context(socket.socket())
            taking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taking.bind((HOST, port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise EnsembleError(f"cannot find {count} free ports")
