"""MemoryCoordinator: a broker in this process, and the shortest example of how to write a coordinator.

Like any coordinator, it has three parts:

* `Store` (`store.py`) is the broker. Each of its transactions is all or nothing, and its events go to every subscriber
  in the same order. It keeps its state as a `ClusterView`, the same type as every session's view.
* `Feed` (`feed.py`) is a subscriber: a live view, updated by its own Trio task and never by the caller of a request. A
  view therefore changes only while its user awaits.
* `MemorySession` (`session.py`) and `MemoryClient` (`client.py`) send requests to the store. A request is delayed like
  an event, and its answer arrives after the events that it caused. Once a request is no longer in flight (`is_pending`,
  `is_leaving`), the view therefore shows its outcome.

For tests there are faults on demand (`expire`, `crash`, `partition`, `outage`) and delays (`latency`). All times are
Trio's, so everything also runs on virtual time.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from metafora_trio._errors import CoordinatorUnavailable, NodeNotFound, SessionLost
from metafora_trio.contract import (
    Coordinator,
    NodeInfo,
    check_node_name,
    open_service_nursery,
)

from .client import MemoryClient
from .session import MemorySession
from .store import Store

__all__ = ["MemoryCoordinator", "from_url"]


class MemoryCoordinator(Coordinator):
    """A broker in this process, for programs on one machine, tests and demonstrations.

    Nodes and clients that share one `MemoryCoordinator` are one cluster. All of them must run in the same `trio.run`.
    Nothing is stored on disk: the tasks are lost with the object.

    Args:
        latency: seconds that a request takes to the broker, and an event to each node and client.
        session_timeout: seconds of a partition after which the broker ends a session. The lease follows from it (see
            `Lease`). Infinite by default; then only `expire` ends a session.
        connect_timeout: seconds after which joining or connecting fails in an outage.

    Attributes:
        outage: while True, no node can join and no client can connect. Open sessions and clients keep working.
    """

    def __init__(
        self, *, latency: float = 0.0, session_timeout: float = math.inf, connect_timeout: float = 10.0
    ) -> None:
        self.latency = latency
        self.session_timeout = session_timeout
        self.connect_timeout = connect_timeout
        self.outage = False
        self._store = Store()
        self._sessions: dict[str, MemorySession] = {}

    @asynccontextmanager
    async def open_session(self, node: NodeInfo) -> AsyncGenerator[MemorySession]:
        check_node_name(node.identity)
        await self._connect()
        node = replace(node, identity=f"{node.identity}.{self._store.number()}")
        session = MemorySession(self._store, node, latency=self.latency, session_timeout=self.session_timeout)
        async with open_service_nursery() as nursery:
            self._store.join(node, session)
            self._sessions[node.identity] = session
            nursery.start_soon(session.keep_up)
            nursery.start_soon(session.send)
            if session.can_time_out:
                nursery.start_soon(session.keep_alive)
            try:
                with session.scope:
                    yield session
            finally:
                session.close()
                self._store.stop_feeding(session)
                del self._sessions[node.identity]
        if session.scope.cancel_called:
            raise SessionLost(f"the session of node {node.identity} has ended")

    @asynccontextmanager
    async def open_client(self) -> AsyncGenerator[MemoryClient]:
        await self._connect()
        client = MemoryClient(self._store, latency=self.latency)
        async with open_service_nursery() as nursery:
            nursery.start_soon(client.keep_up)
            try:
                yield client
            finally:
                self._store.stop_feeding(client)

    async def _connect(self) -> None:
        await trio.sleep(2 * self.latency)
        if self.outage:
            await trio.sleep(self.connect_timeout)
        if self.outage:
            raise CoordinatorUnavailable(f"no answer within {self.connect_timeout:g} s")

    # ---- faults on demand. Each takes the identity of a session (`<name>.<mark>`), or raises `NodeNotFound`.

    def expire(self, identity: str) -> None:
        """End a session at once, as an operator can, even though its node is healthy.

        Its claims are removed at once, its body is cancelled, and `open_session` raises `SessionLost`.
        """
        session = self._find(identity)
        session.mute()
        self._store.end_session(identity)
        session.scope.cancel(reason="the session has expired")

    def crash(self, identity: str) -> None:
        """Make a node look dead to the cluster: from now on its requests have no effect, and it receives no events.

        Cancel the node itself in the same step: `coordinator.crash(identity); scope.cancel()`. Its claims are removed
        when its last task has ended (a process dies before its session does) or after `session_timeout`, whichever
        comes first.
        """
        self._find(identity).mute()

    def partition(self, identity: str) -> None:
        """Cut a session off: its requests and events wait until `heal`, and it is not `current` until then."""
        self._find(identity).partition()

    def heal(self, identity: str) -> None:
        """End a partition: the requests and events that waited are delivered, and then the view is rebuilt."""
        self._find(identity).heal()

    def _find(self, identity: str) -> MemorySession:
        session = self._sessions.get(identity)
        if session is None:
            raise NodeNotFound(f"no session {identity!r}")
        return session


def from_url(url: str, **options: Any) -> Coordinator:
    """Create a new, empty `MemoryCoordinator` for a `memory://` URL.

    Each call creates a separate cluster: share the object, not the URL.

    Args:
        url: `memory://`; the rest is ignored.
        **options: the arguments of `MemoryCoordinator`.
    """
    return MemoryCoordinator(**options)
