"""ScriptedZooKeeper: a test decides which requests it serves, which replies arrive and which events are lost.

Use `SimulatedZooKeeper` (see `coordinator_lab`) unless a test needs this one. The simulated ensemble fails like real
servers and at its own times, and a differential test compares it with them. This one does things that servers never do,
or never at a chosen moment: it can lose one reply, or one event on a connection that stays open; run something between
a request and its reply; forbid a path; refuse an operation as unknown; and start a connection at a chosen position of
the log. So a test needs only a few lines for a fault that shows in a single interleaving.

There is one log of transactions. Each connection reads from its own replica, which normally follows the log at once.
One that lags shows an old state until a write of the connection is answered, like a real follower. The code for
transactions is the simulated ensemble's, and the life of a session is `ConnectionBase`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from metafora_trio.contract import RepeatedEvent
from metafora_trio_zookeeper._connection import (
    Check,
    ConnectionState,
    Done,
    ErrorCode,
    EventType,
    ReadResult,
    Reply,
    RequestError,
    WriteOp,
)
from metafora_trio_zookeeper._connection_base import ConnectionBase, Established
from metafora_trio_zookeeper.testing.simulated._tree import Outcome, Tree, carry_out, end_session

LATENCY = 0.002
RECONNECT = 0.05
NOTHING = Outcome({}, (), ())
CONNECTED, DISCONNECTED = ConnectionState.CONNECTED, ConnectionState.DISCONNECTED


class ScriptedZooKeeper:
    """The ensemble.

    Attributes:
        session_timeout: the session timeout it grants, in seconds.
        has_quorum: whether writes are answered.
        refusing: whether new connections are refused.
        refusing_credentials: whether new connections end because their credentials are not accepted.
        unimplemented: the requests it does not know, by the name of the method.
        forbidden: the paths below which all writes are refused.
        unreadable: the paths that may not be read. Their events are sent all the same.
        unlisted: the paths whose children may not be listed.
        log: the outcome of each transaction, refused ones included.
    """

    def __init__(self, session_timeout: float = 4.0) -> None:
        self.session_timeout = session_timeout
        self.has_quorum = True
        self.refusing = self.refusing_credentials = False
        self.unimplemented: set[str] = set()
        self.forbidden: set[str] = set()
        self.unreadable: set[str] = set()
        self.unlisted: set[str] = set()
        self.tree = Tree()
        self.log: list[Outcome] = []
        self.connections: list[ScriptedConnection] = []

    def connect(self) -> ScriptedConnection:
        connection = ScriptedConnection(self, len(self.connections) + 1)
        self.connections.append(connection)
        return connection

    def commit(self, ops: Sequence[WriteOp], owner: int = 0) -> tuple[str | None, ...]:
        """Carry out a transaction, all or nothing, and let the replicas follow."""
        try:
            for index, op in enumerate(ops):
                if op.path.startswith(tuple(self.forbidden)):
                    raise RequestError(ErrorCode.NO_AUTH, index)
            outcome = carry_out(self.tree, ops, session=owner, zxid=len(self.log) + 1, now_ms=0)
        except RequestError:
            self._publish(NOTHING)  # a refusal is a transaction, too
            raise
        self._publish(outcome)
        return outcome.created

    def end_session(self, session: int) -> None:
        """End a session: its ephemerals go in one transaction."""
        paths = [path for path, node in self.tree.items() if node.owner == session]
        self._publish(end_session(self.tree, paths, zxid=len(self.log) + 1))

    def _publish(self, outcome: Outcome) -> None:
        self.tree.apply(outcome.changes)
        self.log.append(outcome)
        for connection in self.connections:
            if not connection.lagging:
                connection.catch_up()


@dataclass(eq=False)
class Request:
    name: str
    carry_out: Callable[[], Reply]


class Wire:
    """One direction of a connection: makes each call that was put in, in order, `LATENCY` later.

    Attributes:
        held: whether the calls wait until this is set to false.
    """

    def __init__(self) -> None:
        self._held = False
        self._calls: deque[tuple[float, Callable[[], None]]] = deque()
        self._more = RepeatedEvent()

    def put(self, call: Callable[[], None]) -> None:
        self._calls.append((trio.current_time() + LATENCY, call))
        self._more.set()

    def clear(self) -> None:
        self._calls.clear()

    @property
    def held(self) -> bool:
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        self._held = held
        self._more.set()

    @property
    def arrived(self) -> int:
        return sum(due <= trio.current_time() for due, _ in self._calls)

    async def run(self) -> None:
        while True:
            while self._calls and not self.held:
                if self.arrived:
                    self._calls.popleft()[1]()
                else:
                    await trio.sleep_until(self._calls[0][0])
            await self._more.wait()


class ScriptedConnection(ConnectionBase[Request]):
    """One session.

    Attributes:
        lagging: whether its replica stops following the log, until a write on the connection is answered.
        losing: whether all messages from the server are lost, until the connection breaks.
        numb: whether all events are lost.
        received: see `Connection`; only the test changes it.
        sent: the names of the requests made so far, in order.
        before, after: called around the sending of each transaction, with its operations.
    """

    def __init__(self, zookeeper: ScriptedZooKeeper, session: int) -> None:
        super().__init__()
        self.lagging = self.losing = self.numb = False
        self.received = 0
        self.sent: list[str] = []
        self.before = self.after = nothing
        self._zookeeper = zookeeper
        self._session = session
        self._tree = Tree()
        self._position = 0
        self._next_position: int | None = None
        self._watches: set[str] = set()
        self._acts: dict[int, Callable[[], None]] = {}
        self._served = 0
        self._up, self._down = Wire(), Wire()

    @property
    def backlog(self) -> int:
        return self._down.arrived

    # ---- faults

    def cut(self) -> None:
        """Break the connection. Messages on their way are lost in both directions."""
        self.losing = False
        if self.state is CONNECTED:
            self._up.clear()
            self._down.clear()
            self._watches.clear()
            self._set_state(DISCONNECTED)

    drop = cut

    def expire(self) -> None:
        """End the session at the servers and notify the client."""
        self._zookeeper.end_session(self._session)
        self._set_state(ConnectionState.EXPIRED)

    def lag(self, position: int) -> None:
        """Make the next connection start at an older position of the log and stay there."""
        self._next_position = position

    def before_next(self, act: Callable[[Sequence[WriteOp]], None]) -> None:
        """Have `act` called before the next transaction is sent."""

        def once(ops: Sequence[WriteOp]) -> None:
            self.before = nothing
            act(ops)

        self.before = once

    def after_next(self, act: Callable[[Sequence[WriteOp]], None]) -> None:
        """Have `act` called right after the next transaction was sent, before it is served."""

        def once(ops: Sequence[WriteOp]) -> None:
            self.after = nothing
            act(ops)

        self.after = once

    def hold_replies(self, held: bool = True) -> None:
        """Hold all messages to the client, as behind a reply that takes long on the link; or let them go on."""
        self._down.held = held

    def before_request(self, number: int, act: Callable[[], None]) -> None:
        """Have `act` called before the servers take the request of that number, counted from 1."""
        self._acts[number] = act

    def silence(self) -> None:
        """Lose the messages on their way to the client, and all later ones until the connection breaks."""
        self._down.clear()
        self.losing = True

    def serve_next(self, call: Callable[[], None]) -> None:
        """Have `call` made at the servers right after the requests made so far."""
        self._up.put(call)

    # ---- requests

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self.before(ops)
        self._send("transact", lambda: self._write(ops), done)
        self.after(ops)

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        def beat() -> Reply:
            self._write([Check(path)])
            if not self.losing:
                self._prove(stamp)
            return Reply(None, len(self._zookeeper.log))

        self._send("heartbeat", beat, done)

    def read(self, paths: Sequence[str], done: Done) -> None:
        def look() -> Reply:
            return Reply(tuple(map(self._read, wanted)), 0)

        wanted = tuple(paths)
        self._send("read", look, done)

    def exists(self, paths: Sequence[str], done: Done) -> None:
        def look() -> Reply:
            found = map(self._tree.get, wanted)
            return Reply(tuple(None if node is None else node.stat() for node in found), 0)

        wanted = tuple(paths)
        self._send("exists", look, done)

    def children(self, path: str, done: Done) -> None:
        def listing() -> Reply:
            if path not in self._tree:
                raise RequestError(ErrorCode.NO_NODE)
            if path in self._zookeeper.unlisted:
                raise RequestError(ErrorCode.NO_AUTH)
            return Reply(sorted(self._tree[path].children), 0)

        self._send("children", listing, done)

    def add_watch(self, path: str, done: Done) -> None:
        def watch() -> Reply:
            self._watches.add(path)
            return Reply(None, 0)

        self._send("add_watch", watch, done)

    def send_from_thread(self, ops: Sequence[WriteOp]) -> None:
        self.sent.append("send_from_thread")
        if self.state is CONNECTED:
            self._transmit(Request("send_from_thread", lambda: self._write(ops)))

    def halt_from_thread(self, reason: str) -> None:
        self.halted = reason
        self._up.clear()
        self._down.put(lambda: self._set_state(ConnectionState.CLOSED))

    def _read(self, path: str) -> ReadResult | RequestError | None:
        if path in self._zookeeper.unreadable:
            return RequestError(ErrorCode.NO_AUTH)
        node = self._tree.get(path)
        return None if node is None else node.result()

    # ---- the transport

    def _send(self, name: str, carry_out: Callable[[], Reply], done: Done) -> None:
        self.sent.append(name)
        self._request(Request(name, carry_out), done)

    def _start(self) -> None:
        for run in (self._up.run, self._down.run, self._keep_connected):
            trio.lowlevel.spawn_system_task(run)

    async def _stop(self) -> None:
        self._zookeeper.end_session(self._session)
        await trio.lowlevel.checkpoint()

    def _transmit(self, request: Request) -> None:
        self._up.put(partial(self._serve, request))

    def _transmit_close(self) -> None:
        self._up.put(lambda: self._down.put(lambda: self._set_state(ConnectionState.CLOSED)))

    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        self._down.put(partial(call, first, second))

    async def _keep_connected(self) -> None:
        while self.state in (CONNECTED, DISCONNECTED):
            await trio.sleep(RECONNECT)
            if self.state is DISCONNECTED and self._zookeeper.refusing_credentials:
                self._set_state(ConnectionState.AUTH_FAILED)
            elif self.state is DISCONNECTED and not self._zookeeper.refusing:
                self._choose_replica()
                number, timeout = self.number + 1, self._zookeeper.session_timeout
                established = Established(trio.current_time(), number, f"scripted:{number}", timeout, self._session)
                self._set_state(CONNECTED, established)

    # ---- the server's end

    def _choose_replica(self) -> None:
        self.lagging = self._next_position is not None
        if self._next_position is not None:
            self._tree, self._position, self._next_position = Tree(), self._next_position, None
            for outcome in self._zookeeper.log[: self._position]:
                self._tree.apply(outcome.changes)
        else:
            self.catch_up()

    def _serve(self, request: Request) -> None:
        answer: Reply | RequestError
        self._served += 1
        if act := self._acts.pop(self._served, None):
            act()
        if request.name in ("transact", "heartbeat") and not self._zookeeper.has_quorum:
            return
        try:
            if request.name in self._zookeeper.unimplemented:
                raise RequestError(ErrorCode.UNIMPLEMENTED)
            answer = request.carry_out()
        except RequestError as error:
            answer = error
        if not self.losing:
            self._down.put(lambda: self._deliver(request, answer))

    def _write(self, ops: Sequence[WriteOp]) -> Reply:
        try:
            return Reply(self._zookeeper.commit(ops, self._session), len(self._zookeeper.log))
        finally:
            self.lagging = False
            self.catch_up()

    def catch_up(self) -> None:
        """Apply the rest of the log and send the events of watches."""
        while self._position < len(self._zookeeper.log):
            outcome = self._zookeeper.log[self._position]
            self._position += 1
            self._tree.apply(outcome.changes)
            for event, path in outcome.events:
                if not self.numb and not self.losing and path.startswith(tuple(self._watches)):
                    self._down.put(partial(self._notify, event, path))

    def _notify(self, event: EventType, path: str) -> None:
        if self._sink is not None and self.state is CONNECTED:
            self._sink.on_event(event, path)


def nothing(ops: Sequence[WriteOp]) -> None:
    """Do nothing: the default for `before` and `after`."""
