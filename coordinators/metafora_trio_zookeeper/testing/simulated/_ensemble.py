"""SimulatedZooKeeper: an ensemble on virtual time, with faults on demand.

It models what was observed on real servers:

* one log, whose transactions every server applies in order, sooner or later;
* sessions that only the leader expires, at full ticks, from the reports that followers send every half tick;
* a follower that keeps answering reads and pings while it is cut off from its leader;
* a leader that does the same without a quorum;
* session timeouts that start again after a change of leader;
* sessions that move from server to server, each of which grants a timeout within limits of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ._connection import SimulatedConnection
from ._network import Channel, Down, Link, Way
from ._quorum import Quorum, SimulatedSession
from ._server import Entry, Server
from ._tree import Forbidden, Tree

if TYPE_CHECKING:
    from metafora_trio.testing.simulation import Process, World

__all__ = ["SimulatedZooKeeper"]

_LATENCY = 0.001


class SimulatedZooKeeper:
    """An ensemble whose servers and links fail on demand.

    Servers are numbered from 1. Every fault is a plain call and has taken effect when it returns.

    Args:
        world: provides the time.
        servers: the number of servers.
        tick: ZooKeeper's tickTime in seconds. Session timeouts are 2 to 20 ticks, and sessions expire at full ticks.
        sync_limit: the number of ticks after which a server notices that it is cut off from the others.
        rng: makes all random choices.

    Attributes:
        tick: as given.
        sync_limit: as given.
    """

    def __init__(
        self, world: World, *, servers: int = 3, tick: float = 0.5, sync_limit: int = 10, rng: random.Random
    ) -> None:
        self.tick = tick
        self.sync_limit = sync_limit
        self._world = world
        self._rng = rng
        self._quorum = Quorum(world, servers, tick, sync_limit, rng)
        self._links: dict[tuple[Process, int], Link] = {}
        self._at_connect: dict[Process, Callable[[], None]] = {}

    # ---- for users

    def connect(self, session_timeout: float, process: Process | None = None) -> SimulatedConnection:
        """Return a connection for a new session, not opened yet.

        Args:
            session_timeout: the timeout to request, in seconds.
            process: the client's process; by default the calling one.

        Raises:
            RuntimeError: no process was given, and none is calling.
        """
        process = process or self._world.current
        if process is None:
            raise RuntimeError("a connection belongs to a process of the world")
        return SimulatedConnection(self._world, process, self, session_timeout, random.Random(self._rng.random()))

    @property
    def sessions(self) -> Mapping[int, SimulatedSession]:
        """All sessions so far, ended ones included, by id."""
        return self._quorum.sessions

    @property
    def tree(self) -> Tree:
        """The committed znodes, no matter which servers have applied them."""
        return self._quorum.tree

    @property
    def forbidden(self) -> Forbidden:
        """The actions that ACLs forbid. A test changes it at will; a change takes effect at once, on every server."""
        return self._quorum.forbidden

    @property
    def log(self) -> Sequence[Entry]:
        """All transactions so far, refused ones included."""
        return self._quorum.log

    def paths(self) -> dict[str, int]:
        """Return the path of each znode of `tree`, with the session that owns it or 0."""
        return {path: node.owner for path, node in self.tree.items()}

    @property
    def leader(self) -> int | None:
        """The number of the leading server; None during an election or without a majority for one."""
        leader = self._quorum.leader
        return None if leader is None else leader.number

    @property
    def servers(self) -> Mapping[int, Server]:
        """The servers by number."""
        return self._quorum.servers

    def servers_of(self, process: Process) -> list[int]:
        """Return the servers that a process is connected or connecting to."""
        return [number for (owner, number), link in self._links.items() if owner is process and link.connected]

    # ---- links between processes and servers

    def cut(self, process: Process, server: int | None = None, way: Way = "both") -> None:
        """Hold all messages, including those already on their way.

        Args:
            process: the client's process.
            server: the server's number; None means all.
            way: "to" the server, "from" it, or "both".
        """
        for link in self._links_of(process, server):
            link.cut(way)

    def heal(self, process: Process | None = None, server: int | None = None) -> None:
        """Deliver messages again, including those held, and lose no more replies. None means all."""
        if process is None:
            links = list(self._links.values())
            self._quorum.losing.clear()
        else:
            links = self._links_of(process, server)
            self._quorum.losing.discard(process)
        for link in links:
            link.heal()

    def delay(self, process: Process, seconds: float, server: int | None = None) -> None:
        """Set the latency of messages to `seconds`, each way."""
        for link in self._links_of(process, server):
            link.latency = seconds

    def lose_replies(self, process: Process) -> None:
        """Lose the reply to the process's next transaction that changes something: the transaction takes effect, but
        the connection breaks before its reply, and perhaps before its events."""
        self._quorum.losing.add(process)

    def at_connect(self, process: Process, call: Callable[[], None]) -> None:
        """Call a function once, when the process has next sent its first message on a new connection."""
        self._at_connect[process] = call

    def start_sequences(self, number: int) -> None:
        """Let the sequence numbers in directories that are created from now on begin with this number, as if so many
        children had been created and deleted there."""
        self._quorum.tree.first_sequence = number

    # ---- servers

    def isolate_server(self, number: int) -> None:
        """Cut a server off from the other servers. It notices only later, and so do the others if it leads."""
        server = self.servers[number]
        if server.linked:
            self._quorum.isolate(server)

    def lag_server(self, number: int, seconds: float) -> None:
        """Make a server apply commits this much later than others. Has no effect while it leads."""
        server = self.servers[number]
        server.lag = seconds
        server.advance()

    def kill_server(self, number: int) -> None:
        """Kill a server like SIGKILL. Its data is kept."""
        server = self.servers[number]
        if server.alive:
            self._quorum.kill(server)

    def start_server(self, number: int) -> None:
        """Start a killed server again."""
        server = self.servers[number]
        if not server.alive:
            self._quorum.start(server)

    @property
    def longest_timeouts(self) -> Mapping[int, float]:
        """Each server's maxSessionTimeout, in seconds, by its number."""
        return self._quorum.longest

    def limit_timeout(self, number: int, longest: float) -> None:
        """Set a server's maxSessionTimeout, in seconds. It counts for the connections made from now on."""
        self._quorum.longest[number] = longest

    def heal_servers(self) -> None:
        """Link all servers again, start killed ones, and end every lag."""
        for server in self.servers.values():
            self.lag_server(server.number, 0.0)
            self.start_server(server.number)
            if not server.linked:
                self._quorum.heal(server)

    def elect(self, out: float | None = None) -> None:
        """Make the leader step down. All connections break, and no client is served for `out` seconds."""
        if self._quorum.leader is not None:
            self._quorum.lose_leader(out)

    def expire(self, session_id: int) -> None:
        """End a session even if its client is alive, as an operator or a second client with its id could."""
        self._quorum.expire(self.sessions[session_id])

    def delete(self, path: str) -> None:
        """Delete a znode by an operator's hand. Has no effect if it does not exist, or without a quorum."""
        self._quorum.delete(path)

    # ---- for connections (`Servers`)

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the servers."""
        return tuple(self.servers)

    def link(self, process: Process, server: int) -> Link:
        """Return the link between a process and a server."""
        return self._links.setdefault((process, server), Link(_LATENCY))

    def open_channel(
        self, process: Process, server: int, to_client: Callable[[Channel, Sequence[Down]], None]
    ) -> Channel:
        """Open a TCP connection from a process to a server; `to_client` takes the server's messages."""
        link = self.link(process, server)
        if call := self._at_connect.pop(process, None):
            self._world.after(0.0, call)
        return Channel(self._world, link, process, server, to_server=self.servers[server].receive, to_client=to_client)

    def refuses(self, server: int) -> bool:
        """Return whether nothing listens at a server's port."""
        return not self.servers[server].alive

    def _links_of(self, process: Process, server: int | None) -> list[Link]:
        return [self.link(process, number) for number in (self.servers if server is None else [server])]
