"""A ZooKeeper small enough to read, on virtual time, behind the `Connection` protocol.

There is one log of transactions. Each connection reads from a replica of its own, which normally follows the log at
once; one that lags shows the past until a write of the connection is answered, as with a real follower.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import pytest
import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

from metafora_trio_zookeeper._connection import (
    Check,
    ConnectionState,
    Create,
    Delete,
    Done,
    ErrorCode,
    EventType,
    ReadResult,
    Reply,
    RequestError,
    Sink,
    WriteOp,
)

T = TypeVar("T")


def _run(
    function: Callable[..., Awaitable[T]], *, clock: Clock | None = None, instruments: Sequence[Instrument] = ()
) -> T:
    return trio.run(function, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)


def use_virtual_time(item: pytest.Item) -> None:
    """For whole modules and classes: pytest-trio looks for a clock among a test's own arguments only."""
    item.add_marker(pytest.mark.trio(run=_run), append=False)


LATENCY = 0.002
RECONNECT = 0.05
LOSS = RequestError(ErrorCode.CONNECTION_LOSS)


@dataclass(frozen=True)
class Change:
    """One znode as a transaction left it; `node` None: gone."""

    event: EventType
    path: str
    node: ReadResult | None


class Tree(dict[str, ReadResult]):
    """The znodes by path."""

    def apply(self, change: Change) -> None:
        if change.node is None:
            del self[change.path]
        else:
            self[change.path] = change.node

    def below(self, path: str) -> Iterator[str]:
        prefix = f"{path.rstrip('/')}/"
        return (p[len(prefix) :] for p in self if p.startswith(prefix) and "/" not in p[len(prefix) :])


class FakeZooKeeper:
    """The ensemble.

    Attributes:
        session_timeout: what it grants, in seconds.
        has_quorum: whether writes are answered.
        refusing: whether new connections are refused.
        unimplemented: the requests it does not know, by the name of the method.
        forbidden: below which paths nobody may write.
    """

    def __init__(self, session_timeout: float = 4.0) -> None:
        self.session_timeout = session_timeout
        self.has_quorum = True
        self.refusing = False
        self.unimplemented: set[str] = set()
        self.forbidden: set[str] = set()
        self.tree = Tree()
        self.log: list[list[Change]] = []
        self.connections: list[FakeConnection] = []
        self._created: dict[str, int] = {}

    def connect(self) -> FakeConnection:
        connection = FakeConnection(self, len(self.connections) + 1)
        self.connections.append(connection)
        return connection

    def commit(self, ops: Sequence[WriteOp], owner: int = 0) -> tuple[str | None, ...]:
        """Carry out a transaction, all or nothing, and let the replicas follow."""
        tree, changes, created = Tree(self.tree), list[Change](), list[str | None]()
        for index, op in enumerate(ops):
            try:
                change = self._change(tree, op, owner)
            except RequestError as error:
                self._publish([])  # a refusal is a transaction, too
                raise RequestError(error.code, index) from None
            created.append(change.path if change is not None and isinstance(op, Create) else None)
            if change is not None:
                tree.apply(change)
                changes.append(change)
        self._publish(changes)
        return tuple(created)

    def _change(self, tree: Tree, op: WriteOp, owner: int) -> Change | None:
        if op.path.startswith(tuple(self.forbidden)):
            raise RequestError(ErrorCode.NO_AUTH)
        if isinstance(op, Create):
            parent = op.path.rpartition("/")[0]
            if parent and parent not in tree:
                raise RequestError(ErrorCode.NO_NODE)
            count = self._created[parent] = self._created.get(parent, -1) + 1
            path = f"{op.path}{count:010}" if op.sequential else op.path
            if path in tree:
                raise RequestError(ErrorCode.NODE_EXISTS)
            return Change(EventType.CREATED, path, ReadResult(op.data, 0, 0, owner if op.ephemeral else 0))
        node = tree.get(op.path)
        if node is None:
            raise RequestError(ErrorCode.NO_NODE)
        if op.version not in (-1, node.version):
            raise RequestError(ErrorCode.BAD_VERSION)
        if isinstance(op, Check):
            return None
        if isinstance(op, Delete):
            if any(tree.below(op.path)):
                raise RequestError(ErrorCode.NOT_EMPTY)
            return Change(EventType.DELETED, op.path, None)
        return Change(EventType.CHANGED, op.path, replace(node, data=op.data, version=node.version + 1))

    def _publish(self, changes: list[Change]) -> None:
        for change in changes:
            self.tree.apply(change)
        self.log.append(changes)
        for connection in self.connections:
            if not connection.lagging:
                connection.catch_up()

    def end_session(self, session: int) -> None:
        """Let a session end: its ephemerals go in one transaction."""
        gone = [
            Change(EventType.DELETED, path, None) for path, node in self.tree.items() if node.ephemeral_owner == session
        ]
        self._publish(gone)


@dataclass(eq=False)
class Request:
    name: str
    carry_out: Callable[[], Reply]
    done: Done


class Wire:
    """One direction: calls what was put in, in order, `LATENCY` later."""

    def __init__(self) -> None:
        self._items: deque[tuple[float, Callable[[], None]]] = deque()
        self._more = trio.Event()

    def put(self, call: Callable[[], None]) -> None:
        self._items.append((trio.current_time() + LATENCY, call))
        self._more.set()

    def clear(self) -> None:
        self._items.clear()

    def flush(self) -> None:
        while self._items:
            self._items.popleft()[1]()

    @property
    def arrived(self) -> int:
        return sum(due <= trio.current_time() for due, _ in self._items)

    async def run(self) -> None:
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._items:
                if not self.arrived:
                    await trio.sleep_until(self._items[0][0])
                else:
                    self._items.popleft()[1]()


class FakeConnection:
    """One session.

    Attributes:
        lagging: its replica does not follow the log by itself.
        losing: what the server sends does not arrive any more, until the connection breaks.
        numb: events do not arrive any more: a fault that no real server has, to see it noticed.
        sent: the names of the requests that were made, in order.
    """

    def __init__(self, world: FakeZooKeeper, session_id: int) -> None:
        self.state = ConnectionState.DISCONNECTED
        self.session_id = session_id
        self.session_timeout = 0.0
        self.number = 0
        self.proof = -math.inf
        self.connected_at = -math.inf
        self.lagging = self.losing = self.numb = False
        self.sent: list[str] = []
        self._world = world
        self._tree = Tree()
        self._position = 0
        self._next_position: int | None = None
        self._watches: set[str] = set()
        self._outstanding: dict[Request, None] = {}
        self._up, self._down = Wire(), Wire()
        self._sink: Sink | None = None

    @property
    def server(self) -> str:
        return f"fake:{self.number}" if self.state is ConnectionState.CONNECTED else ""

    @property
    def backlog(self) -> int:
        return self._down.arrived

    async def open(self, sink: Sink) -> None:
        self._sink = sink
        for run in (self._up.run, self._down.run, self._keep_connected):
            trio.lowlevel.spawn_system_task(run)
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self.state is ConnectionState.CONNECTED:
            self._up.flush()
        self._world.end_session(self.session_id)
        self._told(ConnectionState.CLOSED)
        await trio.lowlevel.checkpoint()

    # ---- faults

    def cut(self) -> None:
        """The connection breaks: what is on its way in either direction is lost."""
        self._up.clear()
        self._down.clear()
        self.losing = False
        if self.state is ConnectionState.CONNECTED:
            self._told(ConnectionState.DISCONNECTED)

    drop = cut

    def expire(self) -> None:
        """The session ends at the servers, and the client hears of it."""
        self._world.end_session(self.session_id)
        self._told(ConnectionState.EXPIRED)

    def lag(self, position: int) -> None:
        """Have the next connection begin at an older position of the log, and stay there."""
        self._next_position = position

    # ---- requests

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self._request("transact", lambda: self._write(ops), done)

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        def beat() -> Reply:
            self._write([Check(path)])
            if not self.losing:
                self.proof = max(self.proof, stamp)
            return Reply(None, len(self._world.log))

        self._request("heartbeat", beat, done)

    def read(self, paths: Sequence[str], done: Done) -> None:
        wanted = tuple(paths)
        self._request("read", lambda: Reply(tuple(map(self._tree.get, wanted)), 0), done)

    def children(self, path: str, done: Done) -> None:
        def listing() -> Reply:
            if path not in self._tree:
                raise RequestError(ErrorCode.NO_NODE)
            return Reply(list(self._tree.below(path)), 0)

        self._request("children", listing, done)

    def add_watch(self, path: str, done: Done) -> None:
        def watch() -> Reply:
            self._watches.add(path)
            return Reply(None, 0)

        self._request("add_watch", watch, done)

    # ---- inside

    def _request(self, name: str, carry_out: Callable[[], Reply], done: Done) -> None:
        self.sent.append(name)
        request = Request(name, carry_out, done)
        self._outstanding[request] = None
        if self.state is ConnectionState.CONNECTED:
            self._up.put(lambda: self._serve(request))
        else:
            self._down.put(lambda: self._answer(request, LOSS))

    def _serve(self, request: Request) -> None:
        answer: Reply | RequestError
        if request.name in ("transact", "heartbeat") and not self._world.has_quorum:
            return
        try:
            if request.name in self._world.unimplemented:
                raise RequestError(ErrorCode.UNIMPLEMENTED)
            answer = request.carry_out()
        except RequestError as error:
            answer = error
        if not self.losing:
            self._down.put(lambda: self._answer(request, answer))

    def _answer(self, request: Request, answer: Reply | RequestError) -> None:
        if request in self._outstanding:
            del self._outstanding[request]
            request.done(answer)

    def _write(self, ops: Sequence[WriteOp]) -> Reply:
        try:
            return Reply(self._world.commit(ops, self.session_id), len(self._world.log))
        finally:
            self.lagging = False
            self.catch_up()

    def catch_up(self) -> None:
        """Apply the log; watches fire as it goes."""
        while self._position < len(self._world.log):
            for change in self._world.log[self._position]:
                self._tree.apply(change)
                if not self.numb and not self.losing and any(change.path.startswith(path) for path in self._watches):
                    self._down.put(partial(self._tell, change))
            self._position += 1

    def _tell(self, change: Change) -> None:
        if self._sink is not None and self.state is ConnectionState.CONNECTED:
            self._sink.on_event(change.event, change.path)

    async def _keep_connected(self) -> None:
        while self.state in (ConnectionState.CONNECTED, ConnectionState.DISCONNECTED):
            await trio.sleep(RECONNECT)
            if self.state is ConnectionState.DISCONNECTED and not self._world.refusing:
                self.number += 1
                self.session_timeout = self._world.session_timeout
                self.connected_at = trio.current_time()
                self._watches.clear()
                if self._next_position is not None:
                    self.lagging, self._tree, self._position = True, Tree(), self._next_position
                    for changes in self._world.log[: self._position]:
                        for change in changes:
                            self._tree.apply(change)
                    self._next_position = None
                else:
                    self.lagging = False
                    self.catch_up()
                self._told(ConnectionState.CONNECTED)

    def _told(self, state: ConnectionState) -> None:
        if self.state not in (ConnectionState.CONNECTED, ConnectionState.DISCONNECTED):
            return
        self.state = state
        if state is not ConnectionState.CONNECTED:
            self._watches.clear()
            outstanding, self._outstanding = self._outstanding, {}
            for request in outstanding:
                request.done(LOSS)
        if self._sink is not None:
            self._sink.on_state(state)
