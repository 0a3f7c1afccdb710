"""Quorum: the shared part of a simulated ensemble: the log, the sessions, and the choice of the leader.

One `Quorum` acts as the leader, whichever server that is, and holds the state that the servers agree on: a transaction
that it has committed is committed, no matter which servers have applied it. `Server` holds the state of one server,
which may be out of date while it is cut off.

Nothing runs periodically. A periodic action that changes nothing, such as a report, is computed only when needed.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metafora_trio_zookeeper._connection import Delete, ErrorCode, Reply, RequestError

from ._network import Hello, Kind, Request, Welcome
from ._server import HOP, Entry, Origin, Server
from ._tree import Forbidden, Outcome, Tree, carry_out, end_session

if TYPE_CHECKING:
    from metafora_trio.testing.simulation import Process, World

__all__ = ["Quorum", "SimulatedSession"]

_ELECTION = (0.34, 0.6)
_JOINING = (0.1, 0.3)
_SHORTEST, _LONGEST = 2, 20
_NOTHING = Outcome({}, (), ())


@dataclass(eq=False)
class SimulatedSession:
    """The leader's record of a session.

    Attributes:
        id: its id.
        timeout: as granted when it was created, in seconds. A new leader restarts the session with it, even if another
            server has granted another timeout since.
        server: the number of the server that its client last connected to.
        renewed: when the leader last received a sign of life.
        deadline: when it expires unless it is renewed.
        checked: when the deadline is checked next.
        ended: whether it was closed or has expired.
    """

    id: int
    timeout: float
    server: int
    renewed: float = 0.0
    deadline: float = 0.0
    checked: float = 0.0
    ended: bool = False


class Quorum:
    """See the module.

    Args:
        count: the number of servers.
        tick: ZooKeeper's tickTime, in seconds.
        sync_limit: the ticks after which a server notices that it is cut off.

    Attributes:
        leader: the leading server; None during an election or without a majority for one.
        tree: the committed znodes.
        forbidden: what the ACLs do not permit.
        losing: the processes whose next reply to a write is to be lost.
        longest: each server's maxSessionTimeout, in seconds, by its number.
    """

    def __init__(self, world: World, count: int, tick: float, sync_limit: int, rng: random.Random) -> None:
        self.tree = Tree()
        self.forbidden = Forbidden()
        self.sessions: dict[int, SimulatedSession] = {}
        self.log: list[Entry] = []
        self.servers = {number: Server(number, self) for number in range(1, count + 1)}
        self.leader: Server | None = self.servers[1]
        self.losing: set[Process] = set()
        self.longest: dict[int, float] = dict.fromkeys(self.servers, _LONGEST * tick)
        self._world = world
        self._tick = tick
        self._patience = tick * sync_limit
        self._rng = rng
        self._epoch = 1
        self._count = 0
        # The requests on their way to the leader, and those (and expiries) that wait because it has no quorum.
        self._under_way: deque[Origin] = deque()
        self._stalled: deque[Origin | SimulatedSession] = deque()
        for server in self.servers.values():
            server.epoch = self._epoch

    # ---- for servers

    @property
    def now(self) -> float:
        return self._world.now

    def at(self, when: float, server: Server) -> None:
        """Make `server` apply, at time `when`, the transactions that have arrived by then."""
        self._world.at(when, server.advance)

    def leads(self, server: Server) -> bool:
        return server is self.leader

    def reaches_leader(self, server: Server) -> bool:
        leader = self.leader
        return server is leader or (leader is not None and leader.linked and server.linked)

    def next_report(self, server: Server) -> float:
        """Return when `server` next reports its live sessions to the leader."""
        # Each server has a different phase, because servers do not start at the same time.
        half = self._tick / 2
        phase = half * server.number / (len(self.servers) + 1)
        return (math.floor((self.now - phase) / half) + 1) * half + phase

    def forward(self, origin: Origin) -> None:
        """Send a request to the leader as soon as possible."""
        server = origin.server
        if server is self.leader:
            self._decide_or_wait(origin)
        elif self.leader is None or not server.linked:
            server.held.append(origin)
        else:
            self._under_way.append(origin)
            self._world.after(HOP, self._arrive, origin)

    def renew(self, session: int, when: float, timeout: float) -> None:
        """Let the session expire `timeout` after `when`, when the leader received a sign of life.

        Each sign counts with the timeout of the server that it came to, so it may bring the expiry forward.
        """
        found = self.sessions[session]
        if when < found.renewed:
            return  # reports are computed late, when a later sign may have been counted already
        found.renewed, found.deadline = when, self._round_up(when + timeout)
        if found.deadline < found.checked:
            self._watch_deadline(found)

    def loses_reply(self, entry: Entry) -> bool:
        """Return whether to lose the reply to `entry`. Call this only once for each entry."""
        origin = entry.origin
        if origin is None or not entry.changes or origin.channel.process not in self.losing:
            return False
        self.losing.discard(origin.channel.process)
        return True

    def loses_events(self) -> bool:
        """Return whether to lose a write's events with its reply."""
        return self._rng.random() < 0.5

    # ---- deciding

    @property
    def _members(self) -> list[Server]:
        """The running servers that can reach each other."""
        return [server for server in self.servers.values() if server.alive and server.linked]

    @property
    def can_commit(self) -> bool:
        """True while the leader has a majority."""
        # Do not count a server that is about to join. Otherwise new writes would overtake those that wait.
        members = [server for server in self._members if server.serving]
        return self.leader in members and len(members) > len(self.servers) // 2

    def _arrive(self, origin: Origin) -> None:
        # After a change of leader the request is gone or already decided.
        if self._under_way and self._under_way[0] is origin:
            self._under_way.popleft()
            self._decide_or_wait(origin)

    def _decide_or_wait(self, origin: Origin) -> None:
        if self.can_commit:
            self._decide(origin)
        else:
            self._stalled.append(origin)

    def _decide(self, origin: Origin) -> None:
        server, channel, request = origin
        if isinstance(request, Hello):
            self._establish(origin, request)
            return
        session = self.sessions[channel.session]
        if session.ended:
            self._commit(_NOTHING, origin, RequestError(ErrorCode.SESSION_EXPIRED))
        elif session.server != server.number:
            # The client has connected to another server. Refuse requests that are still arriving from the old one.
            self._commit(_NOTHING, origin, None)
        elif request.kind is Kind.CLOSE:
            self._end(session, origin)
        else:
            self._transact(origin, request, session)

    def _transact(self, origin: Origin, request: Request, session: SimulatedSession) -> None:
        zxid = self._next_zxid
        try:
            outcome = carry_out(
                self.tree,
                request.argument,
                session=session.id,
                zxid=zxid,
                now_ms=round(self.now * 1000),
                forbidden=self.forbidden,
            )
        except RequestError as error:
            self._commit(_NOTHING, origin, error)
        else:
            self._commit(outcome, origin, Reply(None if request.stamp is not None else outcome.created, zxid))

    def _establish(self, origin: Origin, hello: Hello) -> None:
        server = origin.server
        timeout = min(max(hello.timeout, _SHORTEST * self._tick), self.longest[server.number])
        if not hello.session:
            session = SimulatedSession(len(self.sessions) + 1, timeout, server.number)
            self.sessions[session.id] = session
            self.renew(session.id, self.now, timeout)
            self._watch_deadline(session)
            # This is a transaction, so the server that answers has applied everything before it.
            self._commit(_NOTHING, origin, Welcome(session.id, timeout))
            return
        session = self.sessions[hello.session]
        if session.ended:
            welcome = Welcome(0, 0.0)
        else:
            session.server = server.number
            self.renew(session.id, self.now, timeout)
            welcome = Welcome(session.id, timeout)
        self._world.after(HOP, server.welcome, origin.channel, welcome)

    def _end(self, session: SimulatedSession, origin: Origin | None) -> None:
        if session.ended:
            return
        session.ended = True
        paths = sorted(path for path, node in self.tree.items() if node.owner == session.id)
        # ZooKeeper deletes them in the order of a hash set, which is the same on all servers.
        self._rng.shuffle(paths)
        zxid = self._next_zxid
        self._commit(end_session(self.tree, paths, zxid=zxid), origin, Reply(None, zxid), ended=session.id)

    @property
    def _next_zxid(self) -> int:
        return self._epoch << 32 | self._count + 1

    def _commit(
        self,
        outcome: Outcome,
        origin: Origin | None,
        result: Reply | RequestError | Welcome | None,
        *,
        ended: int = 0,
    ) -> None:
        # A refusal is a transaction too, with its place in the order.
        zxid = self._next_zxid
        self._count += 1
        self.tree.apply(outcome.changes)
        self.log.append(Entry(zxid, self.now, outcome.changes, outcome.events, ended, origin, result))
        for server in self.servers.values():
            if server.serving and (ended or outcome.events or (origin is not None and origin.server is server)):
                server.plan()

    # ---- expiry

    def _round_up(self, when: float) -> float:
        return (math.floor(when / self._tick) + 1) * self._tick

    def _watch_deadline(self, session: SimulatedSession) -> None:
        session.checked = session.deadline
        self._world.at(session.deadline, self._check_deadline, session, session.deadline)

    def _check_deadline(self, session: SimulatedSession, deadline: float) -> None:
        if session.ended or self.leader is None or deadline != session.checked:
            return  # a new leader restarts every session's timeout
        for server in self.servers.values():
            server.report(session.id)
        if session.deadline > deadline:
            self._watch_deadline(session)
        else:
            self.expire(session)

    def expire(self, session: SimulatedSession) -> None:
        """End a session: now, or as soon as there is a quorum."""
        if self.can_commit:
            self._end(session, None)
        else:
            self._stalled.append(session)

    def delete(self, path: str) -> None:
        """Delete a znode by an operator's hand, if it exists and there is a quorum."""
        if self.can_commit and path in self.tree:
            outcome = carry_out(self.tree, [Delete(path)], session=0, zxid=self._next_zxid, now_ms=0)
            self._commit(outcome, None, None)

    # ---- servers that fail and return

    def isolate(self, server: Server) -> None:
        """Cut a server off from the others. It notices only later, and so do the others if it leads."""
        for each in self.servers.values():
            each.report_all()
        server.unlink()
        self._world.after(self._patience, self._notice, server, server.unlinked_at)

    def heal(self, server: Server) -> None:
        """Let a server reach the others again."""
        if server.serving and server.epoch == self._epoch and self.leader is not None:
            server.link()
            for each in self.servers.values():
                each.postpone_reports()
            self._resume()
            return
        server.stop_serving()
        server.link()
        self._come_back(server)

    def kill(self, server: Server) -> None:
        """Kill a server; its data is kept."""
        if server is self.leader:
            self.lose_leader(None)
        server.alive = False
        server.stop_serving()
        self._world.after(self._tick, self._check_quorum)

    def start(self, server: Server) -> None:
        """Start a killed server."""
        server.alive = True
        self._come_back(server)

    def lose_leader(self, out: float | None) -> None:
        """Lose the leader. No client is served until another is elected, after `out` seconds if given."""
        if self.can_commit:
            # Some requests on their way have reached a majority, although their replies are lost.
            for _ in range(self._rng.randint(0, len(self._under_way))):
                self._decide(self._under_way.popleft())
        old, self.leader = self.leader, None
        self._epoch += 1
        self._count = 0
        self._under_way.clear()
        self._stalled.clear()
        for server in self.servers.values():
            # A server that is cut off does not know yet.
            if server.linked or server is old:
                server.stop_serving()
        self._world.after(self._rng.uniform(*_ELECTION) if out is None else out, self._elect, self._epoch)

    def _elect(self, epoch: int) -> None:
        members = self._members
        if epoch != self._epoch or self.leader is not None or len(members) <= len(self.servers) // 2:
            return
        # A server that lags has not seen every transaction and would lose the election.
        self.leader = self._rng.choice([server for server in members if not server.lag] or members)
        for server in members:
            self._serve(server)
        for session in self.sessions.values():
            if not session.ended:
                session.renewed, session.deadline = self.now, self._round_up(self.now + session.timeout)
                self._watch_deadline(session)

    def _serve(self, server: Server) -> None:
        server.catch_up()
        server.epoch = self._epoch
        server.serving = True

    def _come_back(self, server: Server) -> None:
        if self.leader is None:
            self._world.after(self._rng.uniform(*_ELECTION), self._elect, self._epoch)
        else:
            self._world.after(self._rng.uniform(*_JOINING), self._join, server)

    def _join(self, server: Server) -> None:
        if self.leader is not None and server.alive and server.linked and not server.serving:
            self._serve(server)
            self._resume()

    def _resume(self) -> None:
        """Process the requests and expiries that waited for a quorum."""
        waiting, self._stalled = self._stalled, deque()
        for one in waiting:
            if isinstance(one, SimulatedSession):
                self.expire(one)
            else:
                self._decide_or_wait(one)

    def _notice(self, server: Server, since: float) -> None:
        """Make a server notice that it is cut off, if it has been since `since`."""
        if not server.linked and server.unlinked_at == since:
            if server is not self.leader:
                server.stop_serving()
            self._check_quorum()

    def _check_quorum(self) -> None:
        if self.leader is not None and not self.can_commit:
            self.lose_leader(None)
