"""A cluster on a scripted ZooKeeper, for tests of sessions and clients that need a script."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from metafora_trio import NodeInfo, StateName, Task, TaskState
from metafora_trio.contract import Session
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Delete, SetData, WriteOp
from metafora_trio_zookeeper._layout import GENERATION_EPOCH, Layout

from .scripted_zookeeper import ScriptedConnection, ScriptedZooKeeper


class ScriptedCluster(ScriptedZooKeeper):
    """A scripted ZooKeeper with a coordinator on it.

    Attributes:
        suspended: the seconds for which the machine has been suspended so far.
    """

    def __init__(self, session_timeout: float = 4.0, *, buckets: int = 4) -> None:
        super().__init__(session_timeout)
        self.suspended = 0.0
        self.coordinator = ZooKeeperCoordinator(
            "scripted:2181",
            namespace="/m",
            session_timeout=4.0,
            buckets=buckets,
            connect=self.connect,
            rng=random.Random(1),
            suspended=lambda: self.suspended,
            now=lambda: GENERATION_EPOCH + 5,
        )
        self.layout = Layout("/m", buckets)

    def make_namespace(self, generation: int = 5) -> None:
        """Create the namespace, as the first node would."""
        record = self.layout.new_record(GENERATION_EPOCH + generation)
        self.commit([Create(self.layout.root, record), *map(Create, self.layout.directories())])

    @asynccontextmanager
    async def session(self, name: str = "a") -> AsyncGenerator[tuple[Session, ScriptedConnection]]:
        place = len(self.connections)
        async with self.coordinator.open_session(NodeInfo(name, since=1.0)) as session:
            yield session, self.connections[place]

    async def submit(self, *ids: str) -> None:
        async with self.coordinator.open_client() as client:
            await client.submit([Task(id, {"of": id}) for id in ids], again=False)

    # ---- faults of the newest connection, or of the next transaction on it

    def lose_next_reply(self, *, then_lag: bool = False) -> None:
        """Carry out the next transaction, but lose its reply and break the connection. With `then_lag`, the next server
        has not applied that transaction yet."""
        connection = self.connections[-1]

        def lose(_: Sequence[WriteOp]) -> None:
            connection.losing = True
            if then_lag:
                connection.lag(len(self.log))
            trio.lowlevel.spawn_system_task(self._cut_soon, connection)

        connection.after_next(lose)

    async def _cut_soon(self, connection: ScriptedConnection) -> None:
        await trio.sleep(0.1)
        connection.cut()

    def drop_next_request(self) -> None:
        """Break the connection before the next transaction is sent."""
        connection = self.connections[-1]
        connection.before_next(lambda _: connection.cut())

    def interfere(self, *ops: WriteOp) -> None:
        """Carry out another client's `ops` before the next transaction."""

        def commit(_: Sequence[WriteOp]) -> None:
            self.commit(ops)

        self.connections[-1].before_next(commit)

    # ---- actions of a task's owner

    def end(self, task: str) -> None:
        """Store that a task has completed, and remove it."""
        completed = TaskState(StateName.COMPLETED).encode()
        self.commit([SetData(self.layout.state_path(task), completed), Delete(self.layout.task_path(task))])
