"""The faults of servers: killed, stopped, cut from each other, and slow."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from metafora_trio_zookeeper.testing.real import Server

from .cluster import ChaosCluster
from .faults import Fault, FaultKind
from .records import FaultRecord

__all__ = ["ServerFaults", "shimmed"]

_NOT_SERVING = (None, "not serving")
_SERVING = 20.0
"""Seconds to wait for a server to serve again, or for a leader."""
_POLL = 0.05

Action = Callable[[Fault, FaultRecord], Awaitable[None]]


async def shimmed(
    cluster: ChaosCluster, control: Path, value: int, unit: str, seconds: float, record: FaultRecord
) -> None:
    """Set a control file of the shim for some seconds. Skip the fault if there is no shim."""
    if cluster.shim is None:
        record.skipped = True
        record.note = "skipped: it needs a C compiler"
        return
    record.note = f"{value:+d} {unit}"
    control.write_text(f"{value}\n")  # noqa: ASYNC240 - a few bytes, in memory
    await trio.sleep(seconds)
    control.unlink()  # noqa: ASYNC240 - likewise


class ServerFaults:
    """Injects the faults of servers, one at a time.

    Args:
        cluster: the cluster to disturb.

    Attributes:
        lock: held during a fault. A fault that takes long to heal must not overlap the next, because only some faults
            may take the quorum away.
        actions: the function that injects each kind.
    """

    def __init__(self, cluster: ChaosCluster) -> None:
        self._cluster = cluster
        self.lock = trio.Lock()
        self.actions: Mapping[FaultKind, Action] = {
            FaultKind.KILL_SERVER: self._kill_server,
            FaultKind.PAUSE_SERVER: self._pause_server,
            FaultKind.ISOLATE_SERVER: self._isolate_server,
            FaultKind.SLOW_DISK: self._slow_disk,
            FaultKind.ROLL_SERVERS: self._roll_servers,
            FaultKind.LOSE_QUORUM: self._lose_quorum,
            FaultKind.CUT_PAIR: self._cut_pair,
            FaultKind.KILL_SERVERS: self._kill_servers,
        }

    async def _kill_server(self, fault: Fault, record: FaultRecord) -> None:
        server = await self._find(fault, record)
        self.kill_one(server)
        await trio.sleep(fault.seconds)
        await self._start(server)

    async def _pause_server(self, fault: Fault, record: FaultRecord) -> None:
        await self._pause([await self._find(fault, record)], fault.seconds)

    async def _pause(self, servers: Sequence[Server], seconds: float) -> None:
        # A server that has ended by itself is a surprise already, and `heal` starts it again.
        for server in servers:
            with suppress(ProcessLookupError):
                server.pause()
        await trio.sleep(seconds)
        for server in servers:
            with suppress(ProcessLookupError):
                server.resume()
        for server in servers:
            await self._wait_serving(server)

    async def _isolate_server(self, fault: Fault, record: FaultRecord) -> None:
        server = await self._find(fault, record)
        self._cluster.ensemble.isolate(server)
        await trio.sleep(fault.seconds)
        self._cluster.ensemble.heal()
        await self._wait_serving(server)

    async def _slow_disk(self, fault: Fault, record: FaultRecord) -> None:
        server = await self._find(fault, record)
        ms = round(50 + 450 * fault.amount)
        await shimmed(self._cluster, server.folder / "slow-fsync", ms, "ms an fsync", fault.seconds, record)

    async def _roll_servers(self, fault: Fault, record: FaultRecord) -> None:
        servers = self._cluster.ensemble.servers
        for turn, server in enumerate(servers, 1):
            end = record.start / 1e9 + fault.seconds * turn / len(servers)
            self.kill_one(server)
            await trio.sleep(0.5)
            await self._start(server)
            await trio.sleep(max(0.0, end - time.monotonic()))

    async def _lose_quorum(self, fault: Fault, record: FaultRecord) -> None:
        """Stop just so many servers that the others are no majority, by SIGSTOP or by SIGKILL."""
        rng = random.Random(fault.amount)
        servers = self._cluster.ensemble.servers
        lost = rng.sample(servers, (len(servers) + 1) // 2)
        names = _names(lost)
        if rng.random() < 0.5:
            record.note = f"SIGSTOP of {names}"
            await self._pause(lost, fault.seconds)
            return
        record.note = f"SIGKILL of {names}"
        await self._kill(lost, fault.seconds)

    async def _kill_servers(self, fault: Fault, record: FaultRecord) -> None:
        await self._kill(self._cluster.ensemble.servers, fault.seconds)

    async def _kill(self, servers: Sequence[Server], seconds: float) -> None:
        for server in servers:
            self.kill_one(server)
        await trio.sleep(seconds)
        for server in servers:
            await trio.to_thread.run_sync(server.start)
            self._cluster.away.discard(server.id)
        for server in servers:
            await self._wait_serving(server)

    async def _cut_pair(self, fault: Fault, record: FaultRecord) -> None:
        """Cut two servers from each other: both ways, or only what the one sends to the other."""
        rng = random.Random(fault.amount)
        one, other = rng.sample(self._cluster.ensemble.servers, 2)
        one_way = rng.random() < 0.5
        record.note = f"from s{one.id} to s{other.id}" if one_way else f"between s{one.id} and s{other.id}"
        self._cluster.ensemble.cut(one, other, one_way=one_way)
        await trio.sleep(fault.seconds)
        self._cluster.ensemble.heal()
        for server in (one, other):
            await self._wait_serving(server)

    async def _find(self, fault: Fault, record: FaultRecord) -> Server:
        """Return a server that now has the role, or any server if none has it for long."""
        ensemble = self._cluster.ensemble
        found: list[Server] = []
        with trio.move_on_after(_SERVING):
            while not found:
                if fault.target == "leader":
                    leader = await trio.to_thread.run_sync(ensemble.leader)
                    found = [leader] if leader else []
                else:
                    found = await trio.to_thread.run_sync(ensemble.followers)
                await trio.sleep(_POLL)
        found = found or ensemble.servers
        server = found[int(fault.amount * len(found))]
        record.target = f"s{server.id} ({fault.target})"
        return server

    def kill_one(self, server: Server) -> None:
        """Kill a server on purpose, so that its end is no surprise."""
        self._cluster.away.add(server.id)
        server.kill()

    async def _start(self, server: Server) -> None:
        await trio.to_thread.run_sync(server.start)
        self._cluster.away.discard(server.id)
        await self._wait_serving(server)

    async def _wait_serving(self, server: Server) -> None:
        """Wait until a server serves again, because only then is its fault healed, or until it has ended by itself."""
        with trio.move_on_after(_SERVING):
            while server.alive and await trio.to_thread.run_sync(server.mode) in _NOT_SERVING:  # noqa: ASYNC110 - no event
                await trio.sleep(_POLL)


def _names(servers: Sequence[Server]) -> str:
    return " and ".join(f"s{server.id}" for server in servers)
