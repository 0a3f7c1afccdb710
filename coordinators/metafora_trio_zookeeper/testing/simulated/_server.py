"""One server of a simulated ensemble: its replica, its clients, and what it answers by itself.

As in ZooKeeper, a server answers reads and pings alone, from what it has applied so far, and sends writes to the
leader. The requests of one session are answered in order: a read waits for the session's writes before it, and so
does a ping. An event is sent when its transaction is applied here, so before any reply that shows its effect.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from metafora_trio_zookeeper._connection import ErrorCode, EventType, Reply, RequestError

from ._network import Answer, Channel, Event, Hello, Kind, Request, Up, Welcome
from ._tree import Tree, Znode, parent_of

__all__ = ["HOP", "Entry", "Leader", "Origin", "Server"]

HOP = 0.0005
"""Seconds from one server to another."""


class Origin(NamedTuple):
    """Where something that the leader has to decide came from."""

    server: Server
    channel: Channel
    request: Request | Hello


class Entry(NamedTuple):
    """One transaction in the log.

    Attributes:
        committed: when.
        ended: the session that it ends, or 0.
        result: for `origin`; None: its connection is to be closed without one.
    """

    zxid: int
    committed: float
    changes: Mapping[str, Znode | None]
    events: tuple[tuple[EventType, str], ...]
    ended: int
    origin: Origin | None
    result: Reply | RequestError | Welcome | None


class Leader(Protocol):
    """What a server needs of the servers together, which one of them leads: the log, and a way to the leader."""

    @property
    def log(self) -> Sequence[Entry]: ...

    @property
    def now(self) -> float: ...

    def at(self, when: float, server: Server) -> None:
        """Have `server` apply what has arrived, then."""
        ...

    def leads(self, server: Server) -> bool: ...

    def reaches_leader(self, server: Server) -> bool: ...

    def next_report(self, server: Server) -> float:
        """Return when `server` next reports to the leader which sessions it has heard from."""
        ...

    def forward(self, origin: Origin) -> None:
        """Bring something before the leader, as soon as that is possible."""
        ...

    def renew(self, session: int, when: float) -> None:
        """Note that the leader has heard of the session at `when`."""
        ...

    def loses_reply(self, entry: Entry) -> bool:
        """Return whether the reply to `entry` is to be lost. Each entry is asked about once."""
        ...

    def loses_events(self) -> bool:
        """Return whether the events of a write are to be lost with its reply."""
        ...


class _Mode(enum.Enum):
    ONCE = enum.auto()
    RECURSIVE = enum.auto()


class _Client:
    """The server's end of one established connection.

    ZooKeeper 3.8.0 keeps two tables of watches, and in each of them ONE mode for a connection and path: a one-shot
    watch takes the place of a recursive one (ZOOKEEPER-4466).
    """

    def __init__(self) -> None:
        # From the oldest write that has no answer on.
        self.queue: deque[Request] = deque()
        self._data: dict[str, _Mode] = {}
        self._child: dict[str, _Mode] = {}

    def watch(self, path: str) -> None:
        self._data[path] = self._child[path] = _Mode.RECURSIVE

    def watch_once(self, path: str) -> None:
        self._data[path] = _Mode.ONCE

    def sees(self, event: EventType, ancestors: Sequence[str]) -> bool:
        """Return whether an event at `ancestors[0]` is sent to this client; the other paths are above it."""
        seen = bool(self._data) and _trigger(self._data, ancestors)
        if event is EventType.DELETED and self._child:
            seen = _trigger(self._child, ancestors) or seen
        return seen


def _trigger(table: dict[str, _Mode], ancestors: Sequence[str]) -> bool:
    seen = False
    if table.get(ancestors[0]) is _Mode.ONCE:
        del table[ancestors[0]]
        seen = True
    return seen or any(table.get(path) is _Mode.RECURSIVE for path in ancestors)


class Server:
    """See the module.

    Attributes:
        number: 1, 2, ...
        alive: whether its process runs.
        linked: whether it reaches the other servers.
        serving: whether it takes connections and requests: it knows a leader, or has not noticed yet that it lost it.
        lag: how many seconds later than others it applies what is committed. Of a leader it means nothing.
        tree: its replica.
        zxid: of the last transaction it has applied.
        held: what it could not send to the leader.
        epoch: of the leader that it knows.
        unlinked_at: when it was last cut from the other servers.
    """

    def __init__(self, number: int, leader: Leader) -> None:
        self.number = number
        self.alive = True
        self.linked = True
        self.serving = True
        self.lag = 0.0
        self.tree = Tree()
        self.zxid = 0
        self.held: deque[Origin] = deque()
        self.epoch = 0
        self.unlinked_at = -math.inf
        self._leader = leader
        self._position = 0
        self._planned = math.inf
        self._clients: dict[Channel, _Client] = {}
        # Connections whose session is not established yet.
        self._greeting: dict[Channel, None] = {}
        # Sessions heard from, with the time at which that is reported to the leader, if it can be.
        self._touched: dict[int, float] = {}

    # ---- the log

    def plan(self) -> None:
        """See to it that the oldest transaction not applied yet is applied in time."""
        log = self._leader.log
        if self._position < len(log) and self.linked:
            due = log[self._position].committed + self._delay
            if due < self._planned:
                self._planned = due
                self._leader.at(due, self)

    def advance(self) -> None:
        """Apply what has arrived by now."""
        now, log = self._leader.now, self._leader.log
        if self._planned <= now:
            self._planned = math.inf
        if not self.linked or not self.alive:
            return
        latest = now - self._delay
        while self._position < len(log) and self._arrived(log[self._position], now, latest):
            self._position += 1
            self._apply(log[self._position - 1])
        # What is left was planned for by the lag of that time, which may have changed since.
        self.plan()

    def catch_up(self) -> None:
        """Apply everything, as a server does before it serves (again)."""
        log = self._leader.log
        while self._position < len(log):
            self._position += 1
            self._apply(log[self._position - 1])

    def _arrived(self, entry: Entry, now: float, latest: float) -> bool:
        # Also by the sum, as `plan` computes it: in floats the two may differ.
        return entry.committed <= latest or entry.committed + self._delay <= now

    @property
    def _delay(self) -> float:
        return HOP if self._leader.leads(self) else HOP + self.lag

    def _apply(self, entry: Entry) -> None:
        self.zxid = entry.zxid
        self.tree.apply(entry.changes)
        origin = entry.origin
        here = origin is not None and origin.server is self
        lost = here and self._leader.loses_reply(entry)
        if lost and origin is not None and self._leader.loses_events():
            self._drop(origin.channel)
        for event, path in entry.events:
            self._fire(event, path)
        if origin is not None and here:
            if lost:
                self._drop(origin.channel)
            else:
                self._reply(origin, entry)
        if entry.ended:
            self._touched.pop(entry.ended, None)
            self.drop_session(entry.ended)

    def _fire(self, event: EventType, path: str) -> None:
        ancestors = [path]
        while path != "/":
            path = parent_of(path)
            ancestors.append(path)
        for channel, client in self._clients.items():
            if client.sees(event, ancestors):
                channel.send_down(Event(event, ancestors[0]))

    def _reply(self, origin: Origin, entry: Entry) -> None:
        channel, request, result = origin.channel, origin.request, entry.result
        if isinstance(result, Welcome):
            self.welcome(channel, result)
            return
        assert isinstance(request, Request)
        client = self._clients.get(channel)
        if client is None:
            return
        if result is None:
            self._drop(channel)
            return
        answered = client.queue.popleft()
        assert answered is request, "writes of a session are answered in order"
        channel.send_down(Answer(request, result, entry.zxid))
        while client.queue and not client.queue[0].writes:
            self._answer(channel, client, client.queue.popleft())

    # ---- clients

    def receive(self, channel: Channel, messages: Sequence[Up]) -> None:
        """Take what arrives on a connection."""
        self.advance()
        for message in messages:
            # It may have been closed just now, by what was to be applied first.
            if message is None or not self.serving or not channel.server_open:
                self._drop(channel)
                return
            if isinstance(message, Hello):
                self._hello(channel, message)
            else:
                self._take(channel, message)

    def _take(self, channel: Channel, request: Request) -> None:
        client = self._clients[channel]
        self._touch(channel.session)
        if request.writes:
            client.queue.append(request)
            self._leader.forward(Origin(self, channel, request))
        elif client.queue:
            client.queue.append(request)
        else:
            self._answer(channel, client, request)

    def welcome(self, channel: Channel, welcome: Welcome) -> None:
        """Answer a client that its session is established, or that it has ended."""
        if not channel.server_open or not self.linked:
            return
        del self._greeting[channel]
        channel.send_down(welcome)
        if welcome.session:
            channel.session = welcome.session
            self._clients[channel] = _Client()
        else:
            channel.close_server_end()

    def drop_session(self, session: int) -> None:
        """Close the connections of a session here."""
        for channel in [channel for channel in self._clients if channel.session == session]:
            self._drop(channel)

    def stop_serving(self) -> None:
        """Close all connections and take none."""
        self.serving = False
        self.held.clear()
        self._touched.clear()
        for channel in (*self._clients, *self._greeting):
            self._drop(channel)

    def _hello(self, channel: Channel, hello: Hello) -> None:
        if hello.zxid > self.zxid:
            # This server would show the client a past that it has seen the end of.
            self._drop(channel)
            return
        if hello.session:
            self.drop_session(hello.session)
        self._greeting[channel] = None
        self._leader.forward(Origin(self, channel, hello))

    def _drop(self, channel: Channel) -> None:
        self._clients.pop(channel, None)
        self._greeting.pop(channel, None)
        channel.close_server_end()

    def _answer(self, channel: Channel, client: _Client, request: Request) -> None:
        channel.send_down(Answer(request, self._look(client, request), self.zxid))

    def _look(self, client: _Client, request: Request) -> Reply | RequestError:
        argument = request.argument
        match request.kind:
            case Kind.READ:
                found = map(self.tree.get, argument)
                return Reply(tuple(None if node is None else node.result() for node in found), self.zxid)
            case Kind.CHILDREN:
                node = self.tree.get(argument)
                return RequestError(ErrorCode.NO_NODE) if node is None else Reply(sorted(node.children), self.zxid)
            case Kind.ADD_WATCH:
                client.watch(argument)
            case Kind.EXISTS:
                path, watch = argument
                if watch:
                    client.watch_once(path)
                node = self.tree.get(path)
                return RequestError(ErrorCode.NO_NODE) if node is None else Reply(node, self.zxid)
        return Reply(None, self.zxid)

    # ---- reports of which sessions are alive

    def _touch(self, session: int) -> None:
        if self._leader.leads(self):
            self._leader.renew(session, self._leader.now)
        else:
            self.report(session)
            self._touched[session] = self._leader.next_report(self)

    def report(self, session: int) -> None:
        """Report a session to the leader, if that fell due since it was last looked at."""
        if self._leader.reaches_leader(self) and self._touched.get(session, math.inf) <= self._leader.now:
            self._leader.renew(session, self._touched.pop(session))

    def report_all(self) -> None:
        """Report all sessions: what is not reported by now waits for `postpone_reports`."""
        for session in list(self._touched):
            self.report(session)

    def postpone_reports(self) -> None:
        """Report all sessions at the next time from now: the leader can be reached again."""
        for session in self._touched:
            self._touched[session] = self._leader.next_report(self)

    def unlink(self) -> None:
        """Cut this server from the others."""
        self.advance()
        self.linked = False
        self.unlinked_at = self._leader.now

    def link(self) -> None:
        """Reach the others again, and go on where this server stopped."""
        self.linked = True
        held, self.held = self.held, deque()
        for origin in held:
            self._leader.forward(origin)
        self.advance()
        self.plan()
