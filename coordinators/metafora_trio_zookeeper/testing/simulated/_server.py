"""Server: one server of a simulated ensemble, with its replica and its clients.

As in ZooKeeper, a server answers reads and pings alone, from the transactions it has applied so far, and sends writes
to the leader. The requests of one session are answered in order: a read or ping waits for the session's earlier
writes. An event is sent when its transaction is applied here, and so before any reply that shows its effect.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from metafora_trio_zookeeper._connection import ErrorCode, EventType, ReadResult, Reply, RequestError

from ._client import Client
from ._network import Answer, Channel, Event, Hello, Kind, Request, Up, Welcome
from ._tree import Forbidden, Tree, Znode, parent_of

__all__ = ["HOP", "Entry", "Leader", "Origin", "Server"]

HOP = 0.0005
"""Seconds from one server to another."""


class Origin(NamedTuple):
    """A request that the leader has to decide, with the server and channel it came from."""

    server: Server
    channel: Channel
    request: Request | Hello


class Entry(NamedTuple):
    """One transaction in the log.

    Attributes:
        zxid: its id.
        committed: the time of the commit.
        changes: its changes to the tree.
        events: in the order in which a recursive watch sends them.
        ended: the session that it ends, or 0.
        origin: the request that caused it; None for an expiry.
        result: the result for `origin`; None means to close its connection without a reply.
    """

    zxid: int
    committed: float
    changes: Mapping[str, Znode | None]
    events: tuple[tuple[EventType, str], ...]
    ended: int
    origin: Origin | None
    result: Reply | RequestError | Welcome | None


class Leader(Protocol):
    """The part of `Quorum` that a server uses: the log, and the way to the leader."""

    @property
    def log(self) -> Sequence[Entry]: ...

    @property
    def forbidden(self) -> Forbidden: ...

    @property
    def now(self) -> float: ...

    def at(self, when: float, server: Server) -> None:
        """Make `server` apply, at time `when`, the transactions that have arrived by then."""
        ...

    def leads(self, server: Server) -> bool: ...

    def reaches_leader(self, server: Server) -> bool: ...

    def next_report(self, server: Server) -> float:
        """Return when `server` next reports its live sessions to the leader."""
        ...

    def forward(self, origin: Origin) -> None:
        """Send a request to the leader as soon as possible."""
        ...

    def renew(self, session: int, when: float, timeout: float) -> None:
        """Let the session expire `timeout` after `when`, when the leader received a sign of life."""
        ...

    def loses_reply(self, entry: Entry) -> bool:
        """Return whether to lose the reply to `entry`. Call this only once for each entry."""
        ...

    def loses_events(self) -> bool:
        """Return whether to lose a write's events with its reply."""
        ...


class Server:
    """See the module.

    Attributes:
        number: 1, 2, ...
        alive: whether its process is running.
        linked: whether it reaches the other servers.
        serving: whether it takes connections and requests, because it has a leader or has not yet noticed its loss.
        lag: how many seconds later than others it applies commits. Ignored while it leads.
        tree: its replica.
        zxid: the zxid of the last transaction it has applied.
        held: the requests that it could not send to the leader.
        epoch: the epoch of the last leader that it knows.
        unlinked_at: when it was last cut off from the other servers.
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
        self._clients: dict[Channel, Client] = {}
        # Connections whose session is not established yet.
        self._greeting: dict[Channel, None] = {}
        # For each session that sent something, when that is reported to the leader if possible, and its timeout here.
        self._touched: dict[int, tuple[float, float]] = {}

    # ---- the log

    def plan(self) -> None:
        """Schedule the next call of `advance`, for when the oldest transaction not applied yet is due."""
        log = self._leader.log
        if self._position < len(log) and self.linked:
            due = log[self._position].committed + self._delay
            if due < self._planned:
                self._planned = due
                self._leader.at(due, self)

    def advance(self) -> None:
        """Apply the transactions that have arrived by now."""
        now, log = self._leader.now, self._leader.log
        if self._planned <= now:
            self._planned = math.inf
        if not self.linked or not self.alive:
            return
        latest = now - self._delay
        while self._position < len(log) and self._arrived(log[self._position], now, latest):
            self._position += 1
            self._apply(log[self._position - 1])
        # Plan again for the remaining ones, because the lag may have changed since they were planned.
        self.plan()

    def catch_up(self) -> None:
        """Apply everything, as a server does before it starts serving."""
        log = self._leader.log
        while self._position < len(log):
            self._position += 1
            self._apply(log[self._position - 1])

    def _arrived(self, entry: Entry, now: float, latest: float) -> bool:
        # Also compare the sum that `plan` computes, because the two may differ in floating point.
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
        if path in self._leader.forbidden.events:
            return
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
        """Take the messages that arrive together on a connection."""
        self.advance()
        for message in messages:
            # `advance` may just have closed the connection.
            if message is None or not self.serving or not channel.server_open:
                self._drop(channel)
                return
            if isinstance(message, Hello):
                self._hello(channel, message)
            else:
                self._take(channel, message)

    def _take(self, channel: Channel, request: Request) -> None:
        client = self._clients[channel]
        self._touch(channel)
        if request.writes:
            client.queue.append(request)
            self._leader.forward(Origin(self, channel, request))
        elif client.queue:
            client.queue.append(request)
        else:
            self._answer(channel, client, request)

    def welcome(self, channel: Channel, welcome: Welcome) -> None:
        """Notify a client that its session is established or has ended."""
        if not channel.server_open or not self.linked:
            return
        del self._greeting[channel]
        channel.send_down(welcome)
        if welcome.session:
            channel.session, channel.timeout = welcome
            self._clients[channel] = Client()
        else:
            channel.close_server_end()

    def drop_session(self, session: int) -> None:
        """Close a session's connections to this server, and those that are being made for it."""
        for channel in [channel for channel in (*self._clients, *self._greeting) if channel.session == session]:
            self._drop(channel)

    def stop_serving(self) -> None:
        """Close all connections and accept no new ones."""
        self.serving = False
        self.held.clear()
        self._touched.clear()
        for channel in (*self._clients, *self._greeting):
            self._drop(channel)

    def _hello(self, channel: Channel, hello: Hello) -> None:
        if hello.zxid > self.zxid:
            # The client has seen a later state than this server's.
            self._drop(channel)
            return
        if hello.session:
            self.drop_session(hello.session)
        self._greeting[channel], channel.session = None, hello.session
        self._leader.forward(Origin(self, channel, hello))

    def _drop(self, channel: Channel) -> None:
        self._clients.pop(channel, None)
        self._greeting.pop(channel, None)
        channel.close_server_end()

    def _answer(self, channel: Channel, client: Client, request: Request) -> None:
        channel.send_down(Answer(request, self._look(client, request), self.zxid))

    def _look(self, client: Client, request: Request) -> Reply | RequestError:
        argument = request.argument
        match request.kind:
            case Kind.READ:
                return Reply(tuple(map(self._read, argument)), self.zxid)
            case Kind.CHILDREN:
                node = self._find(argument)
                return node if isinstance(node, RequestError) else Reply(sorted(node.children), self.zxid)
            case Kind.ADD_WATCH:
                client.watch(argument)
            case Kind.EXISTS:
                node = self._find(argument)
                return node if isinstance(node, RequestError) else Reply(node.stat(), self.zxid)
            case Kind.STAT:
                path, watch = argument
                if watch:
                    client.watch_once(path)
                found = self.tree.get(path)
                return RequestError(ErrorCode.NO_NODE) if found is None else Reply(found, self.zxid)
        return Reply(None, self.zxid)

    def _read(self, path: str) -> ReadResult | RequestError | None:
        node = self._find(path)
        if isinstance(node, RequestError):
            return None if node.code is ErrorCode.NO_NODE else node
        return node.result()

    def _find(self, path: str) -> Znode | RequestError:
        node = self.tree.get(path)
        if node is None:
            return RequestError(ErrorCode.NO_NODE)
        return RequestError(ErrorCode.NO_AUTH) if path in self._leader.forbidden.reading else node

    # ---- reports of live sessions

    def _touch(self, channel: Channel) -> None:
        if self._leader.leads(self):
            self._leader.renew(channel.session, self._leader.now, channel.timeout)
        else:
            self.report(channel.session)
            self._touched[channel.session] = self._leader.next_report(self), channel.timeout

    def report(self, session: int) -> None:
        """Report a session to the leader if its report is due."""
        due, timeout = self._touched.get(session, (math.inf, 0.0))
        if self._leader.reaches_leader(self) and due <= self._leader.now:
            del self._touched[session]
            self._leader.renew(session, due, timeout)

    def report_all(self) -> None:
        """Report all sessions whose reports are due. Call `postpone_reports` for the rest."""
        for session in list(self._touched):
            self.report(session)

    def postpone_reports(self) -> None:
        """Postpone all open reports to the next time from now, since the leader can be reached again."""
        for session, (_, timeout) in self._touched.items():
            self._touched[session] = self._leader.next_report(self), timeout

    def unlink(self) -> None:
        """Cut this server off from the others."""
        self.advance()
        self.linked = False
        self.unlinked_at = self._leader.now

    def link(self) -> None:
        """Link this server to the others again: send the held requests and apply what it missed."""
        self.linked = True
        held, self.held = self.held, deque()
        for origin in held:
            self._leader.forward(origin)
        self.advance()
        self.plan()
