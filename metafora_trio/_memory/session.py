"""MemorySession: one node's session with the store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import trio

from metafora_trio.contract import (
    Claim,
    ClaimKind,
    ClusterView,
    Lease,
    LeaseTerms,
    NodeInfo,
    QueuedCommand,
    RepeatedEvent,
    Session,
    StoredTask,
    TaskState,
)

from .feed import Feed, Item, Request, Wire
from .store import Store

__all__ = ["MemorySession"]


class MemorySession(Feed, Session):
    """A session with the store, created by `MemoryCoordinator.open_session`."""

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
    def can_time_out(self) -> bool:
        """True if the broker ends the session after a partition of `session_timeout` seconds."""
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

    # ---- background tasks

    async def send(self) -> None:
        """Deliver requests to the store, and its answers back, forever."""
        while True:
            await self.outbox.wait_arrived()
            for request in self.outbox.take():
                request.effect()
                self.inbox.put(request)

    async def keep_alive(self) -> None:
        """Renew the lease while the store can be reached; end the session after too long a partition."""
        while True:
            await trio.sleep(self._terms.heartbeat_period)
            if not self.outbox.cut:
                self._renew_lease()
            elif trio.current_time() >= self.lease.proof + self.session_timeout:
                self.mute()
                self._store.end_session(self.node.identity)

    def _renew_lease(self) -> None:
        if self.can_time_out:
            now = trio.current_time()
            self.lease.renew(self._terms, now, now)
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

    # ---- closing and faults

    def close(self) -> None:
        """Deliver the outstanding requests if the store can be reached, and end the session."""
        if not self.outbox.cut:
            for request in self.outbox.take_all():
                request.effect()
        self.mute()
        self._store.end_session(self.node.identity)

    def mute(self) -> None:
        """Cut the session off for good: its requests have no effect any more, and no event reaches it."""
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
            self.inbox.reconnect()
            self.outbox.reconnect()
            self._renew_lease()
            self.inbox.put(self._store.copy_view())
