"""MemoryCoordinator: a broker in this process, and the shortest example of how to write a coordinator.

A coordinator has three parts, and so has this one:

* `Store` (in `store.py`) is what the broker does: transactions, each all or nothing, whose events go to
  every subscriber in one order. It keeps the truth as a `ClusterView`, the same type as everybody's picture of it.
* `Feed` (there too) is a subscriber: a live view, which a Trio task of its own brings up to date, never the caller
  of a request. So a view changes only while its user awaits.
* `MemorySession` and `MemoryClient` put requests to the store. A request travels like an event does, and
  its answer comes back behind the events it has caused: when the mark (`is_pending`, `is_leaving`) goes,
  the view shows what came of it.

For tests there are faults on demand (`expire`, `crash`, `partition`, `outage`) and delays (`latency`). Time is
Trio's clock, so that all of it runs on virtual time as well.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from metafora_trio._errors import CoordinatorUnavailable, NodeNotFound, SessionLost
from metafora_trio.contract import (
    BrokerClient,
    Claim,
    ClaimKind,
    ClusterView,
    Command,
    Coordinator,
    Lease,
    LeaseTerms,
    NodeInfo,
    QueuedCommand,
    RepeatedEvent,
    Session,
    StoredTask,
    Task,
    TaskSnapshot,
    TaskState,
    check_node_name,
    open_service_nursery,
)

from .store import Feed, Item, Request, Store, Wire

__all__ = ["MemoryCoordinator", "from_url"]


class MemorySession(Feed, Session):
    """A session with the store; `MemoryCoordinator.open_session` makes it."""

    def __init__(self, store: Store, node: NodeInfo, *, latency: float, session_timeout: float) -> None:
        super().__init__(latency)
        self.node = node
        self.lease = Lease()
        self.scope = trio.CancelScope()  # around the body
        self.outbox: Wire[Request] = Wire(latency)
        self._store = store
        self._terms = LeaseTerms(session_timeout)
        self._open = True
        self._current = True
        self._healed = RepeatedEvent()
        self._pending: set[str] = set()
        self._leaving: set[Claim] = set()
        self._outstanding = 0
        self._queued_commands: dict[str, QueuedCommand] = {}
        self._renew_lease()

    @property
    def mortal(self) -> bool:
        """Whether the broker ends the session when it hears nothing of it for a while."""
        return self.session_timeout < math.inf

    @property
    def current(self) -> bool:
        return self._current

    @property
    def quiet(self) -> bool:
        return not self.inbox.arrived

    @property
    def session_timeout(self) -> float:
        return self._terms.session_timeout

    async def read(self, task: str) -> StoredTask | None:
        await trio.sleep(2 * self.inbox.latency)
        while not self._current:
            await self._healed.wait()
        return self._store.tasks.get(task)

    # ---- requests

    def is_pending(self, task: str) -> bool:
        return task in self._pending

    @property
    def pending(self) -> int:
        return len(self._pending)

    def is_leaving(self, claim: Claim) -> bool:
        return claim in self._leaving

    @property
    def outstanding(self) -> int:
        return self._outstanding

    def claim(self, task: str) -> None:
        self._add_claim(task, ClaimKind.CLAIM)

    def bid(self, task: str) -> None:
        self._add_claim(task, ClaimKind.BID)

    def release(self, claim: Claim) -> None:
        self._end_claim(claim, partial(self._store.remove_claim, claim))

    def withdraw(self, claim: Claim, head: Claim) -> None:
        self._end_claim(claim, partial(self._store.remove_claim, claim, if_there=head))

    def hand_over(self, claim: Claim, heir: Claim) -> None:
        self._end_claim(claim, partial(self._store.remove_claim, claim, if_there=heir))

    def finish(self, claim: Claim, state: TaskState | None) -> None:
        version = int(self.view.deleted(claim.task))
        self._end_claim(claim, partial(self._store.finish, claim, version, state))

    def announce(self, node: NodeInfo) -> None:
        self.node = node
        self._ask(Request(partial(self._store.put_node, node)))

    def queued_commands(self) -> Sequence[QueuedCommand]:
        return tuple(self._queued_commands.values())

    def discard(self, queued: QueuedCommand) -> None:
        if self._queued_commands.pop(queued.id, None):
            self._ask(Request(partial(self._store.remove_command, queued)))

    def _add_claim(self, task: str, kind: ClaimKind) -> None:
        if self._open and task not in self._pending:
            self._pending.add(task)
            self._ask(Request(partial(self._store.add_claim, task, self.node.identity, kind), task))

    def _end_claim(self, claim: Claim, effect: Callable[[], None]) -> None:
        if self._open and claim not in self._leaving:
            self._leaving.add(claim)
            self._ask(Request(effect, claim.task, claim))

    def _ask(self, request: Request) -> None:
        if self._open:
            self._outstanding += 1
            self.outbox.put(request)

    # ---- what serves the session

    async def send(self) -> None:
        """Bring requests to the store, and its answers back, for ever."""
        while True:
            await self.outbox.wait_arrived()
            for request in self.outbox.take():
                request.effect()
                self.inbox.put(request)

    async def keep_alive(self) -> None:
        """Renew the lease while the store can be reached; end the session when it could not for too long."""
        while True:
            await trio.sleep(self._terms.heartbeat_period)
            if not self.outbox.cut:
                self._renew_lease()
            elif trio.current_time() >= self.lease.proof + self.session_timeout:
                self.mute()
                self._store.end_session(self.node.identity)

    def _renew_lease(self) -> None:
        if self.mortal:
            self.lease.renew(self._terms, trio.current_time())
            self.scope.deadline = self.lease.cancel_at

    def _apply(self, item: Item) -> None:
        match item:
            case Request():
                self._outstanding -= 1
                if item.leaving is not None:
                    self._leaving.discard(item.leaving)
                elif item.task is not None:
                    self._pending.discard(item.task)
                if item.task is not None:
                    self._changes.tasks[item.task] = None
                else:
                    self._changes.nodes = True
            case QueuedCommand():
                self._queued_commands[item.id] = item
                self._changes.nodes = True
            case _:
                super()._apply(item)
                if isinstance(item, ClusterView):
                    self._current = True
                    self._healed.set()

    # ---- its end, and faults

    def close(self) -> None:
        """Bring what has been asked for to the store, as far as it can be reached, and leave."""
        if not self.outbox.cut:
            for request in self.outbox.rest():
                request.effect()
        self.mute()
        self._store.end_session(self.node.identity)

    def mute(self) -> None:
        """From now on nothing it does counts, and nothing reaches it."""
        self._open = False
        self.lease.revoke(trio.current_time())
        self.partition()
        self._pending.clear()
        self._leaving.clear()
        self._outstanding = 0

    def partition(self) -> None:
        self._current = False
        self.inbox.cut = self.outbox.cut = True

    def heal(self) -> None:
        if self._open:
            self.inbox.mend()
            self.outbox.mend()
            self._renew_lease()
            self.inbox.put(self._store.picture())


class MemoryClient(Feed, BrokerClient):
    """A client of the store; `MemoryCoordinator.open_client` makes it."""

    def __init__(self, store: Store, *, latency: float) -> None:
        super().__init__(latency)
        self._store = store

    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        async with self._travel():
            self._store.submit(tasks, again=again)

    async def delete(self, task: str) -> None:
        async with self._travel():
            self._store.delete(task)

    async def look_up(self, task: str) -> TaskSnapshot:
        async with self._travel():
            return self._store.look_up(task)

    async def finished(self) -> Sequence[str]:
        async with self._travel():
            return [task for task in self._store.states if task not in self._store.tasks]

    async def send(self, identity: str, command: Command) -> None:
        async with self._travel():
            self._store.queue_command(identity, command)

    async def open_view(self) -> ClusterView:
        await trio.lowlevel.checkpoint()
        return self.view

    @asynccontextmanager
    async def _travel(self) -> AsyncGenerator[None]:
        """Round what happens at the broker. On return the view shows it: the answer comes behind the events."""
        await trio.sleep(self.inbox.latency)
        yield
        await trio.sleep(self.inbox.latency)
        self._catch_up()


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
