"""Helpers for the tests of the coordinator on real servers."""

from __future__ import annotations

import trio
from kazoo.client import KazooClient

from metafora_trio.contract import Session
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from metafora_trio_zookeeper._session.session import ZooKeeperSession


def connection_of(session: Session) -> KazooConnection:
    """The connection below a session."""
    assert isinstance(session, ZooKeeperSession)
    assert isinstance(session._connection, KazooConnection)
    return session._connection


async def expire(session: Session) -> None:
    """End a session at the servers: another client takes it over, by its id and password, and closes it."""
    client = connection_of(session)._client
    assert client.hosts is not None
    hosts = ",".join(f"{host}:{port}" for host, port in client.hosts)

    def take_over() -> None:
        other = KazooClient(hosts, client_id=client.client_id)
        other.start()
        other.stop()
        other.close()

    await trio.to_thread.run_sync(take_over)
