"""MemoryCoordinator: a broker in this process, and the shortest example of how to write a coordinator.

A coordinator has three parts, and so has this one:

* `Store` (`store.py`) is what the broker does: transactions, each all or nothing, whose events go to every subscriber
  in one order. It keeps the truth as a `ClusterView`, the type that every session's view has, too.
* `Feed` (`feed.py`) is a subscriber: a live view, brought up to date by a Trio task of its own, never by the caller of
  a request. So a view changes only while its user awaits.
* `MemorySession` (`session.py`) and `MemoryClient` (`client.py`) send requests to the store. A request travels as an
  event does, and its answer comes back behind the events that it caused: when a claim is no longer marked as
  requested (`is_pending`, `is_leaving`), the view shows what became of it.

For tests there are faults on demand (`expire`, `crash`, `partition`, `outage`) and delays (`latency`). Time is
Trio's clock, so that all of it runs on virtual time as well.
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
    """A broker in this process, for programs on one machine, for tests and demonstrations.

    Nodes and clients that share one `MemoryCoordinator` are one cluster. All of them live in one `trio.run`.
    Nothing is stored: the tasks are gone with the object.

    Args:
        latency: seconds that a request takes to the broker, and an event to each node and client.
        session_timeout: seconds of a partition after which the broker ends a session; the lease follows from it
            (see `Lease`). Infinite by default: only `expire` then ends a session.
        connect_timeout: seconds after which an outage is reported to who wants to join.

    Attributes:
        outage: while true nobody can join or connect. Sessions and clients that are open go on.
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
            if session.mortal:
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
            self._store.feed(client)
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
        """End a session at once, as an operator can, though its node is well: its claims go at once, its body is
        cancelled, and `open_session` raises `SessionLost`."""
        session = self._find(identity)
        session.mute()
        self._store.end_session(identity)
        session.scope.cancel(reason="the session has expired")

    def crash(self, identity: str) -> None:
        """Let a node die, as far as the cluster can tell: nothing that it does from now on has any effect, and it
        hears nothing any more.

        Cancel what runs the node in the same step: `coordinator.crash(identity); scope.cancel()`. Its claims
        go when its last task has ended (a process dies before its session does), or after
        `session_timeout`, whichever is first.
        """
        self._find(identity).mute()

    def partition(self, identity: str) -> None:
        """Cut a session off: its requests and its events wait until `heal`, and it is not `current`."""
        self._find(identity).partition()

    def heal(self, identity: str) -> None:
        """End a partition: what has waited comes through, and then the view is made anew."""
        self._find(identity).heal()

    def _find(self, identity: str) -> MemorySession:
        session = self._sessions.get(identity)
        if session is None:
            raise NodeNotFound(f"no session {identity!r}")
        return session


def from_url(url: str, **options: Any) -> Coordinator:
    """A new, empty `MemoryCoordinator` for a `memory://` URL.

    Each call makes another cluster: share the object, not the URL.

    Args:
        url: `memory://`; what follows means nothing.
        **options: the arguments of `MemoryCoordinator`.
    """
    return MemoryCoordinator(**options)
