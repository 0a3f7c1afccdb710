"""The nemesis, without a cluster: a server that ends by itself is a surprise, but does not stop the run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from metafora_trio_zookeeper.testing.real import Server
from stress.chaos.cluster import ChaosCluster, Terms
from stress.chaos.faults import KINDS, Fault, FaultKind
from stress.chaos.nemesis import _ACTIONS, Nemesis
from stress.chaos.poison import Poison
from stress.chaos.records import read_records
from stress.chaos.server_faults import ServerFaults


class Servers:
    """An ensemble of one server, the leader, with only the methods that the nemesis uses here."""

    def __init__(self, server: Server) -> None:
        self.servers = [server]

    def leader(self) -> Server:
        return self.servers[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server, whose process does nothing."""
    with ThreadPoolExecutor(1) as starter:
        server = Server(1, 1, 1, 1, tmp_path, starter)
        # It lives until `kill`. The minute limits its life if the test process dies first.
        server.process = subprocess.Popen(["sleep", "60"])
        yield server
        server.kill()


def cluster_of(server: Server, folder: Path, nursery: trio.Nursery) -> ChaosCluster:
    return ChaosCluster(Terms(servers=1), folder, cast("Any", Servers(server)), cast("Any", None), nursery, None)


@pytest.mark.parametrize("ends", ["before", "while it is paused"])
async def test_a_server_that_ends_by_itself(ends: str, server: Server, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        cluster = cluster_of(server, tmp_path, nursery)
        nursery.start_soon(cluster.watch_servers)
        nemesis = Nemesis(cluster, cast("Any", None), lambda what: None)
        if ends == "before":
            server.kill()
        else:
            nursery.start_soon(trio.to_thread.run_sync, kill_when_paused, server)
        await nemesis.run([Fault(0.0, 0.5, FaultKind.PAUSE_SERVER, "leader")])
        with trio.fail_after(30):
            while not cluster.surprises:  # noqa: ASYNC110 - no event to wait for
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    assert cluster.surprises == ["server s1 has ended by itself"]
    assert [record.target for record in read_records(tmp_path / "faults.jsonl")] == ["s1 (leader)"]


def kill_when_paused(server: Server) -> None:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        pass
    server.kill()


def test_every_kind_has_one_action() -> None:
    nothing = cast("Any", None)
    actions = [*_ACTIONS, *ServerFaults(nothing).actions, *Poison(nothing, nothing).actions]

    # These two are recorded when they are seen.
    assert sorted([*actions, FaultKind.BLOCKED, FaultKind.STALL]) == sorted(KINDS)


async def test_a_server_that_was_killed_is_no_surprise(
    server: Server, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        cluster = cluster_of(server, tmp_path, nursery)
        nursery.start_soon(cluster.watch_servers)
        ServerFaults(cluster).kill_one(server)
        await trio.sleep(10)
        assert cluster.surprises == []
        cluster.away.clear()  # as if it was started again, and has ended
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert cluster.surprises == ["server s1 has ended by itself"]


class SlowProxies:
    """A loop of proxies that is too busy to run."""

    def call(self, function: Callable[[], None]) -> None:
        time.sleep(0.3)  # `watch_links` calls this in a thread and measures how long it takes
        function()


async def test_links_that_stand_still_are_a_fault(server: Server, tmp_path: Path) -> None:
    """With T = 2 s, a quarter of a second is too long."""
    async with trio.open_nursery() as nursery:
        terms, servers = Terms(servers=1, session_timeout=2.0), cast("Any", Servers(server))
        cluster = ChaosCluster(terms, tmp_path, servers, cast("Any", SlowProxies()), nursery, None)
        nursery.start_soon(cluster.watch_links)
        with trio.fail_after(30):
            while not (found := read_records(tmp_path / "faults.jsonl")):  # noqa: ASYNC110 - no event to wait for
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    assert found[0].kind is FaultKind.STALL
    assert found[0].end - found[0].start >= 300_000_000
