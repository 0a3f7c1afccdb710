"""Consumer: the core work runner of a node. Joins the cluster, works, and joins again when the session is lost."""

from __future__ import annotations

import datetime
import logging
import os
import random
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from metafora_trio._errors import CoordinatorUnavailable, SessionLost
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.task import check_node_name
from metafora_trio._running_task import Handler, RunningTask
from metafora_trio._service_nursery import open_service_nursery
from metafora_trio.balancers._base import Balancer
from metafora_trio.balancers._fair import FairBalancer
from metafora_trio.contract import Coordinator
from metafora_trio.events import Event, SessionEnded, SessionOpened

from .event_stream import EventStream
from .membership import Membership
from .watchdog import OnOverrun

__all__ = ["Consumer", "ConsumerStatistics", "open_consumer"]

_REJOIN_FIRST, _REJOIN_MOST = 0.2, 3.0
"""Seconds to wait before joining again: doubling, with jitter. The most is a part of the 2 T + 1 tick + 5 s that a
cluster may take to be even again after an outage."""


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """A consumer at one moment.

    Attributes:
        node: the session's identity, None while not joined.
        tasks_running: tasks whose handler runs and need not stop.
        tasks_open: tasks with any part here: opening, running, stopping, or ending.
        sessions: sessions so far.
        requests_outstanding: requests to the broker that are queued or unanswered.
        events_dropped: events lost by subscribers that were too slow.
        draining: the node is leaving.
        frozen: the node neither claims, bids nor gives.
    """

    node: str | None
    tasks_running: int
    tasks_open: int
    sessions: int
    requests_outstanding: int
    events_dropped: int
    draining: bool
    frozen: bool


def _rejoin_delay(attempts: int) -> float:
    """Seconds to wait, before jitter, after so many attempts to join that failed or did not last."""
    return min(_REJOIN_MOST, _REJOIN_FIRST * 2.0 ** min(attempts, 16))


def _default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9._:@=+-]", "-", socket.gethostname()) or "node"
    return f"{host[:100]}-{os.getpid()}"


class Consumer:
    """A node: takes tasks from the cluster and runs each in a nursery of its own, on exactly one node.

    Args:
        coordinator: the client interface to the broker.
        handler: the async function that executes a task; see `Handler`.
        name: the node's name, for people; need not be unique. By default host and process id.
        balancer: decides what to claim, ask for and give up. By default `FairBalancer()`.
        capacity: the most tasks to hold at once, None for no limit.
        tags: labels for balancers.
        grace: seconds between `task.stopping` and the cancelling of the task's scope. None is given when the
            session is lost.
        cleanup_timeout: seconds for which `task.cleanup()` shields.
        drain_timeout: seconds for which a drain waits for others to take the tasks over.
        on_overrun: what to do when a scope has not closed by the end of the lease, because the handler blocks or
            shields itself: "log" it, or "exit" the process (status 70, tracebacks of all threads on stderr).
        settle: seconds to wait after a node has joined before claiming or bidding: more may be about to.
        backup_delay: seconds after which the next node steps in for a task whose first choice did not come.
        max_handovers: how many tasks at most are being handed to others at any moment; 0 gives none to anybody.
        rng: the source of jitter.

    A consumer runs once at a time. Its methods are called in the Trio thread.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        handler: Handler,
        *,
        name: str | None = None,
        balancer: Balancer | None = None,
        capacity: int | None = None,
        tags: Iterable[str] = (),
        grace: float = 0.0,
        cleanup_timeout: float = 5.0,
        drain_timeout: float = 30.0,
        on_overrun: OnOverrun = "log",
        settle: float = 1.5,
        backup_delay: float = 3.0,
        max_handovers: int = 16,
        rng: random.Random | None = None,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"the handler must be an async function, not {handler!r}")
        if isinstance(tags, str):
            raise TypeError(f"tags must be several strings, not the one {tags!r}")
        least_0 = {"grace": grace, "cleanup_timeout": cleanup_timeout, "drain_timeout": drain_timeout, "settle": settle}
        for argument, value in {**least_0, "max_handovers": max_handovers}.items():
            if not value >= 0:  # nor NaN
                raise ValueError(f"{argument} must be 0 or more, not {value!r}")
        if not backup_delay > 0:
            raise ValueError(f"backup_delay must be more than 0, not {backup_delay!r}")
        if on_overrun not in ("log", "exit"):
            raise ValueError(f'on_overrun must be "log" or "exit", not {on_overrun!r}')
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity must be 0 or more, or None, not {capacity!r}")
        self.coordinator: Coordinator = coordinator
        self.handler: Handler = handler
        self.name: str = check_node_name(name if name is not None else _default_name())
        self.balancer: Balancer = balancer if balancer is not None else FairBalancer()
        self.capacity: int | None = capacity
        self.tags: frozenset[str] = frozenset(tags)
        self.grace: float = grace
        self.cleanup_timeout: float = cleanup_timeout
        self.drain_timeout: float = drain_timeout
        self.on_overrun: OnOverrun = on_overrun
        self.settle: float = settle
        self.backup_delay: float = backup_delay
        self.max_handovers: int = max_handovers
        self.random: random.Random = rng if rng is not None else random.Random()
        self.logger: logging.Logger = logging.getLogger("metafora_trio.consumer")
        self._stream = EventStream(self.logger)
        self._membership: Membership | None = None
        self._running = False
        self._draining = trio.Event()
        self._frozen = False
        self._sessions = 0
        self._ended = trio.Event()

    # ---- what one can see

    @property
    def tasks(self) -> Mapping[str, RunningTask]:
        """The tasks that run here now, by id; a copy. Those on their way out are not among them."""
        return dict(self._membership.running) if self._membership is not None else {}

    @property
    def frozen(self) -> bool:
        """Whether the node neither claims, bids nor gives. Outlasts the session."""
        return self._frozen

    def statistics(self) -> ConsumerStatistics:
        """What the consumer is doing at this moment."""
        m = self._membership
        return ConsumerStatistics(
            node=m.me if m is not None else None,
            tasks_running=len(m.running) if m is not None else 0,
            tasks_open=len(m.runs) if m is not None else 0,
            sessions=self._sessions,
            requests_outstanding=m.session.outstanding if m is not None else 0,
            events_dropped=self._stream.dropped,
            draining=self._draining.is_set(),
            frozen=self._frozen,
        )

    def subscribe(self, buffer: int = 10_000) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """Follow what the consumer does: `with consumer.subscribe() as events: async for event in events: ...`.

        Args:
            buffer: how many events may wait; a subscriber that lags more loses some (`events_dropped`).
        """
        return self._stream.subscribe(buffer)

    def __repr__(self) -> str:
        if not self._running:
            state = "idle"
        else:
            state = "draining" if self._draining.is_set() else "frozen" if self._frozen else "running"
        return f"<Consumer {self.name!r} {state}, {len(self.tasks)} tasks>"

    # ---- what one can do

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - it does, in the loop
        """Join the cluster and work, until drained or cancelled. `started` is told after the first join.

        A lost session is reported as an event, and the node joins again by itself, for as long as it takes; the
        tasks of a lost session have all ended before that.

        Cancelling it stops every task at once and closes the session, so that others take the tasks. Use `drain`
        to leave without a gap.

        Raises:
            CoordinatorUnavailable: the first join failed.
            trio.BusyResourceError: it runs already.
        """
        if self._running:
            raise trio.BusyResourceError(f"{self!r} runs already")
        self._running = True
        self._ended = trio.Event()
        attempts = self._sessions = 0
        try:
            while not self._draining.is_set():
                began = trio.current_time()
                try:
                    if await self._spend_session(task_status):
                        return
                    if trio.current_time() - began > _REJOIN_MOST:  # else whatever ended it may end the next one, too
                        attempts = 0
                except CoordinatorUnavailable as error:
                    if self._sessions == 0:
                        raise
                    self.logger.warning("node %s cannot join again yet: %s", self.name, error)
                delay = _rejoin_delay(attempts)
                attempts += 1
                with trio.move_on_after(self.random.uniform(delay / 2, delay)):
                    await self._draining.wait()
            if not self._sessions:
                task_status.started()  # told to leave before it began: `nursery.start` must not wait for a join
        finally:
            self._running = False
            self._draining = trio.Event()
            self._ended.set()

    async def _spend_session(self, task_status: trio.TaskStatus[None]) -> bool:
        """Join, and work until the session ends; returns whether that was politely."""
        identity = reason = ""
        try:
            async with self.coordinator.open_session(self._node_info()) as session:
                identity = session.node.identity
                self._sessions += 1
                self.emit(SessionOpened(identity, session.session_timeout))
                self._membership = Membership(self, session)
                if self._sessions == 1:
                    task_status.started()
                if self._frozen != session.node.frozen:  # meanwhile
                    self._membership.freeze(self._frozen)
                if self._draining.is_set():
                    self._membership.drain()
                try:
                    await self._membership.run()
                finally:
                    self._membership = None
            return True
        except SessionLost as error:
            reason = str(error)
            return False
        finally:
            if identity:
                self.emit(SessionEnded(identity, reason))

    async def drain(self) -> None:
        """Leave politely: claim nothing more, hand every task over, then end the session. Returns when `run` has.

        Each task runs on here until another node has bid for it; after `drain_timeout`, or when there is
        nobody to take them, what is left is stopped and given up. Cancelling this call does not end the drain. If the
        consumer does not run, its next `run` returns at once.
        """
        self.start_draining()
        if self._running:
            await self._ended.wait()
        else:
            await trio.lowlevel.checkpoint()

    def start_draining(self) -> None:
        """Begin to drain, and return at once. Before `run` has begun: it then returns without joining."""
        self._draining.set()
        if self._membership is not None:
            self._membership.drain()

    def freeze(self) -> None:
        """Freeze the node: it and its tasks stay as they are until `unfreeze`. A drain still works."""
        self._set_frozen(True)

    def unfreeze(self) -> None:
        """End a `freeze`."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        if frozen != self._frozen:
            self._frozen = frozen
            if self._membership is not None:
                self._membership.freeze(frozen)

    # ---- for the parts of a consumer

    def emit(self, event: Event) -> None:
        """Tell every subscriber."""
        self._stream.emit(event)

    def now(self) -> datetime.datetime:
        """The wall clock, for what is recorded."""
        return datetime.datetime.fromtimestamp(time.time(), datetime.UTC)

    def _node_info(self) -> NodeInfo:
        return NodeInfo(
            self.name,
            since=self.now().timestamp(),
            capacity=self.capacity,
            tags=self.tags,
            frozen=self._frozen,
        )


@asynccontextmanager
async def open_consumer(
    coordinator: Coordinator,
    handler: Handler,
    *,
    name: str | None = None,
    balancer: Balancer | None = None,
    capacity: int | None = None,
    tags: Iterable[str] = (),
    grace: float = 0.0,
    cleanup_timeout: float = 5.0,
    drain_timeout: float = 30.0,
    on_overrun: OnOverrun = "log",
) -> AsyncGenerator[Consumer]:
    """Run a consumer beside the body: `async with open_consumer(coordinator, handler) as consumer: ...`.

    The arguments are those of `Consumer`. The body begins when the node has joined. When the body ends
    normally the node drains (for at most `drain_timeout` seconds); on an exception or a cancellation it stops
    at once.

    What it raises: exceptions of the body leave it as they are, never in a group;
    `CoordinatorUnavailable` when the first join failed.
    """
    consumer = Consumer(
        coordinator,
        handler,
        name=name,
        balancer=balancer,
        capacity=capacity,
        tags=tags,
        grace=grace,
        cleanup_timeout=cleanup_timeout,
        drain_timeout=drain_timeout,
        on_overrun=on_overrun,
    )
    async with open_service_nursery() as nursery:
        await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        yield consumer
        await consumer.drain()
