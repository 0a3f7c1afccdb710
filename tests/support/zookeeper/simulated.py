"""Helpers for the tests of the simulated ensemble."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Self

import trio

from metafora_trio.testing.simulation._world import Process, World
from metafora_trio_zookeeper._connection import ConnectionState, EventType, Reply, RequestError, SetData, WriteOp
from metafora_trio_zookeeper.testing.simulated import SimulatedZooKeeper
from metafora_trio_zookeeper.testing.simulated._connection import SimulatedConnection

CONNECTED, DISCONNECTED = ConnectionState.CONNECTED, ConnectionState.DISCONNECTED
EXPIRED, CLOSED = ConnectionState.EXPIRED, ConnectionState.CLOSED
CREATED, DELETED, CHANGED = EventType.CREATED, EventType.DELETED, EventType.CHANGED


class Peer:
    """A process with one session. `log` holds all states, events and answers in order, and `times` their times."""

    def __init__(self, world: World, zookeeper: SimulatedZooKeeper, session_timeout: float) -> None:
        self.log: list[Any] = []
        self.times: list[float] = []
        self._world = world
        self._leave = trio.Event()
        self._opened: list[SimulatedConnection] = []

        async def live() -> None:
            connection = zookeeper.connect(session_timeout)
            self._opened.append(connection)
            await connection.open(self)
            await self._leave.wait()
            await connection.aclose()

        self.process: Process = world.spawn("peer", live)
        world.run_until(lambda: self._opened and self.connection.state is CONNECTED, within=5)

    @property
    def connection(self) -> SimulatedConnection:
        return self._opened[0]

    def on_state(self, state: ConnectionState) -> None:
        self._add(state)

    def on_event(self, event: EventType, path: str) -> None:
        self._add((event, path))

    def _add(self, entry: Any) -> None:
        self.log.append(entry)
        self.times.append(self._world.now)

    def send(self, request: Callable[..., None], *arguments: Any) -> list[Reply | RequestError]:
        """Send a request. Return a list that gets the answer once it has come; `log` gets its value."""
        answers: list[Reply | RequestError] = []

        def done(answer: Reply | RequestError) -> None:
            answers.append(answer)
            self._add(answer.value if isinstance(answer, Reply) else answer.code)

        self.process.call(lambda: request(*arguments, done))
        return answers

    def ask(self, request: Callable[..., None], *arguments: Any) -> Any:
        """Send a request, wait, and return the reply's value or the error's code."""
        answers = self.send(request, *arguments)
        assert self._world.run_until(lambda: answers, within=2), "no answer"
        return answers[0].value if isinstance(answers[0], Reply) else answers[0].code

    def transact(self, *ops: WriteOp) -> Any:
        return self.ask(self.connection.transact, ops)

    def works(self) -> bool:
        """Return whether a write is answered."""
        return bool(self.transact(SetData("/", b"")) == (None,))

    def leave(self) -> None:
        self.process.call(self._leave.set)


class Deaf:
    """A sink that does nothing."""

    def on_state(self, state: ConnectionState) -> None:
        pass

    def on_event(self, event: EventType, path: str) -> None:
        pass


class Lab:
    """A world with an ensemble in it. A context manager."""

    def __init__(self, *, seed: int = 1, servers: int = 3, tick: float = 0.5, sync_limit: int = 10) -> None:
        self.world = World(seed)
        self.zookeeper = SimulatedZooKeeper(
            self.world, servers=servers, tick=tick, sync_limit=sync_limit, rng=random.Random(seed)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    def peer(self, session_timeout: float = 4.0, *, at: int | None = None) -> Peer:
        """Return a process that is connected, to server `at` if given."""
        peer = Peer(self.world, self.zookeeper, session_timeout)
        if at is not None:
            self.move(peer, at)
        return peer

    def move(self, peer: Peer, server: int) -> None:
        """Move a peer's connection to `server`."""
        while self.zookeeper.servers_of(peer.process) != [server]:
            self.drop(peer)

    def drop(self, peer: Peer) -> None:
        number = peer.connection.number
        peer.process.call(peer.connection.drop)
        assert self.world.run_until(lambda: peer.connection.number > number, within=5)

    def until(self, condition: Callable[[], object], *, within: float = 30) -> float:
        """Let time pass until `condition` is true, and return how many seconds that took."""
        start = self.world.now
        assert self.world.run_until(condition, within=within), "the condition never became true"
        return self.world.now - start

    def until_state(self, peer: Peer, *states: ConnectionState) -> float:
        return self.until(lambda: peer.connection.state in states)

    def followers(self) -> Sequence[int]:
        return [number for number in self.zookeeper.servers if number != self.zookeeper.leader]
