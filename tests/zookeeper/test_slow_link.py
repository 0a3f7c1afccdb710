"""A node and a client behind a slow link, with tasks that have large properties, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from metafora_trio import NodeInfo, Task
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._client.client import ZooKeeperClient
from metafora_trio_zookeeper.testing.real import Ensemble, ProxyLoop, TcpProxy
from tests.support.zookeeper.sessions import connection_of

TASKS, SIZE = 20, 400_000
RATE = 4_000_000
TIMEOUT = 2.0
"""All records take 2 s on the link, twice as long as a lease lasts without an answer to a heartbeat."""


@pytest.fixture(scope="module")
def roomy_server() -> Iterator[Ensemble]:
    """A server with memory for many copies of the records: it keeps the last transactions and the last replies."""
    with Ensemble(1, jvm_heap="512m") as ensemble:
        yield ensemble


@pytest.fixture
def proxy(proxies: ProxyLoop, roomy_server: Ensemble) -> Iterator[TcpProxy]:
    proxy = proxies.open("127.0.0.1", roomy_server.servers[0].client_port)
    yield proxy
    proxy.close()


async def _submit(near: ZooKeeperCoordinator) -> list[str]:
    """Submit the tasks; return their ids."""
    tasks = [f"t{n}" for n in range(TASKS)]
    async with near.open_client() as client:
        for task in tasks:
            await client.submit([Task(task, {"large": "x" * SIZE})], again=False)
    return tasks


async def test_large_tasks_are_all_read_and_a_reconnect_reads_none_of_them(
    roomy_server: Ensemble, proxy: TcpProxy, namespace: str
) -> None:
    """The session is not lost, since the answers to its heartbeats never wait long behind the records."""
    near = ZooKeeperCoordinator(roomy_server.hosts, namespace=f"/{namespace}")
    far = ZooKeeperCoordinator(proxy.address, namespace=f"/{namespace}", session_timeout=TIMEOUT)
    tasks = await _submit(near)
    proxy.limit(RATE)
    read: set[str] = set()
    async with far.open_session(NodeInfo("far")) as session:
        connection = connection_of(session)

        async def read_one(task: str) -> None:
            stored = await session.read(task)
            assert stored is not None
            assert len(stored.props["large"]) == SIZE
            read.add(task)

        for task in tasks:
            session.claim(task)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(read_one, task)
        assert read == set(tasks)
        assert connection.number == 1

        received = connection.received
        connection.drop()
        await eventually(session, lambda it: not it.current)
        await eventually(session, lambda it: it.current)
        assert connection.received - received < SIZE
        for claim in list(session.view.claims()):
            session.finish(claim, None)
        await eventually(session, lambda it: not it.view.tasks and not it.outstanding)


async def test_a_client_looks_large_tasks_up(roomy_server: Ensemble, proxy: TcpProxy, namespace: str) -> None:
    """Its connection lasts, although it sends no heartbeats and a reply may take longer than a ping is waited for."""
    near = ZooKeeperCoordinator(roomy_server.hosts, namespace=f"/{namespace}")
    far = ZooKeeperCoordinator(proxy.address, namespace=f"/{namespace}", session_timeout=TIMEOUT)
    tasks = await _submit(near)
    async with far.open_client() as client:
        assert isinstance(client, ZooKeeperClient)
        proxy.limit(RATE)
        snapshots = await client.look_up(tasks)
        assert [snapshot.task and len(snapshot.task.props["large"]) for snapshot in snapshots] == [SIZE] * TASKS
        assert client._requests.connection.number == 1
