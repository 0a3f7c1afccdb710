"""A coordinator on a simulated ensemble, for tests that are themselves a process of the simulated world."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument

from metafora_trio import NodeInfo, Task
from metafora_trio.contract import Session
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import WriteOp
from metafora_trio_zookeeper._layout import GENERATION_EPOCH, Layout
from metafora_trio_zookeeper._plain_connection import open_connection
from metafora_trio_zookeeper._replies import ask
from metafora_trio_zookeeper._session.session import ZooKeeperSession
from metafora_trio_zookeeper.testing.simulated._connection import SimulatedConnection
from metafora_trio_zookeeper.testing.simulated._tree import Tree

from .simulated import Lab

T = TypeVar("T")

_HOSTS = "simulated:2181"
_LONGEST = 600.0
"""Virtual seconds that a test may take."""


class CoordinatorLab(Lab):
    """A lab whose ensemble has a coordinator on it.

    Attributes:
        layout: for paths. It does not learn the namespace's generation.
        coordinator: the coordinator.
        generation: the generation of a namespace that is made now.
    """

    def __init__(self, *, buckets: int = 4) -> None:
        super().__init__()
        self.generation = 5
        self.layout = Layout("/m", buckets)
        self.coordinator = ZooKeeperCoordinator(
            _HOSTS,
            namespace="/m",
            session_timeout=4.0,
            buckets=buckets,
            connect=self.connect,
            rng=random.Random(1),
            now=lambda: GENERATION_EPOCH + self.generation,
        )

    def run(
        self,
        function: Callable[..., Awaitable[T]],
        *,
        clock: Clock | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> object:
        """Run an async function in the world, as `trio.run` would."""
        assert clock is None
        assert not instruments
        process = self.world.spawn("test", function)
        assert self.world.run_until(lambda: process.ended, within=_LONGEST), "the test does not end"
        assert process.outcome is not None
        return process.outcome.unwrap()

    @property
    def tree(self) -> Tree:
        """The committed znodes."""
        return self.zookeeper.tree

    def connect(self) -> SimulatedConnection:
        return self.zookeeper.connect(4.0)

    async def commit(self, *ops: WriteOp) -> None:
        """Carry out another client's transaction, and wait until every server has applied it."""
        async with open_connection(self.connect, hosts=_HOSTS, patience=5) as connection:
            await ask(lambda done: connection.transact(ops, done))
        await trio.sleep(0.1)

    @asynccontextmanager
    async def session(self, name: str = "a") -> AsyncGenerator[tuple[Session, SimulatedConnection]]:
        async with self.coordinator.open_session(NodeInfo(name, since=1.0)) as session:
            yield session, connection_of(session)

    async def submit(self, *ids: str) -> None:
        async with self.coordinator.open_client() as client:
            await client.submit([Task(id, {"of": id}) for id in ids], again=False)

    async def expire(self, session: Session) -> None:
        """End a session at the servers."""
        await trio.lowlevel.checkpoint()
        self.zookeeper.expire(connection_of(session).session_id)


@contextmanager
def lab_of(item: pytest.Item) -> Iterator[CoordinatorLab]:
    """Make a lab and run a test in it. For a fixture, which passes its `request.node`."""
    with CoordinatorLab() as lab:
        item.add_marker(pytest.mark.trio(run=lab.run), append=False)
        yield lab


def connection_of(session: Session) -> SimulatedConnection:
    """The connection below a session."""
    assert isinstance(session, ZooKeeperSession)
    assert isinstance(session._connection, SimulatedConnection)
    return session._connection
