"""A cluster on a simulated ZooKeeper: what the tests of the session stand on."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from metafora_trio import Claim, NodeInfo, Task
from metafora_trio.contract import Session
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper import ZooKeeperCoordinator

from .fake_zookeeper import FakeConnection, FakeZooKeeper


class World(FakeZooKeeper):
    """A simulated ZooKeeper with a coordinator on it."""

    def __init__(self, session_timeout: float = 4.0, *, buckets: int = 4) -> None:
        super().__init__(session_timeout)
        self.suspended = 0.0
        self.coordinator = ZooKeeperCoordinator(
            "fake:2181",
            namespace="/m",
            session_timeout=4.0,
            buckets=buckets,
            connect=self.connect,
            rng=random.Random(1),
            suspended=lambda: self.suspended,
        )

    @asynccontextmanager
    async def session(self, name: str = "a") -> AsyncGenerator[tuple[Session, FakeConnection]]:
        place = len(self.connections)
        async with self.coordinator.open_session(NodeInfo(name, since=1.0)) as session:
            yield session, self.connections[place]

    async def submit(self, *ids: str) -> None:
        async with self.coordinator.open_client() as client:
            await client.submit([Task(id, {"of": id}) for id in ids], again=False)


async def own_claim(session: Session, task: str) -> Claim:
    session.claim(task)
    await eventually(session, lambda it: it.view.own_claims(task, session.node.identity))
    return session.view.own_claims(task, session.node.identity)[0]
