"""Consumer: the core work runner of a node. It joins the cluster, runs tasks, and rejoins when the session is lost."""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Unpack

import trio

from metafora_trio._clock import Clock, SystemClock
from metafora_trio._model.failure_streak import FailureStreak
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._running_task import Handler, RunningTask
from metafora_trio._service_nursery import open_service_nursery, unwrap_errors
from metafora_trio._trio_util import AsyncBool
from metafora_trio.balancers import Balancer, FairBalancer
from metafora_trio.contract import Coordinator, Session
from metafora_trio.events import Event, JoinFailed, Observer, SessionOpened, TaskStuck

from .event_stream import EventStream
from .experience import Experience
from .log_observer import LogObserver
from .membership import Membership
from .session_run import SessionRun
from .settings import ConsumerOptions, ConsumerSettings, default_name
from .stuck_runs import stack_of
from .watchdog import OnOverrun

__all__ = ["Consumer", "ConsumerStatistics", "open_consumer"]

_REJOIN_FIRST, _REJOIN_MOST = 0.2, 3.0
"""First and longest delay before joining again, in seconds: doubling, with jitter. The longest counts towards the
2 T + 1 tick + 5 s within which a cluster must be even again after an outage."""


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """The state of a consumer at one moment.

    Attributes:
        node: the session's identity, None while not joined.
        tasks_running: the number of tasks that run and have not been told to stop.
        tasks_open: the number of tasks with a run here: opening, running, stopping, or ending.
        tasks_stuck: the number of tasks whose scope, opened in an earlier session, has not closed.
        loop_lag: the most seconds by which the event loop was late during the last half to whole minute. It is measured
            only in sessions with a lease in real time.
        sessions: the number of sessions so far.
        requests_outstanding: the number of requests to the broker that are queued or unanswered.
        events_dropped: the number of events that slow subscribers have lost.
        draining: the node is leaving.
        frozen: the node claims nothing, bids for nothing and hands nothing over.
    """

    node: str | None
    tasks_running: int
    tasks_open: int
    tasks_stuck: int
    loop_lag: float
    sessions: int
    requests_outstanding: int
    events_dropped: int
    draining: bool
    frozen: bool


def _rejoin_delay(attempts: int) -> float:
    """Return the seconds to wait, before jitter, after this many attempts to join that failed or did not last."""
    return min(_REJOIN_MOST, _REJOIN_FIRST * 2.0 ** min(attempts, 16))


class Consumer:
    """The work runner of a node: takes tasks from the cluster and runs each in its own nursery.

    Args:
        coordinator: the client interface to the broker.
        handler: the async function that executes a task; see `Handler`.
        name: the node's name, for people; it need not be unique. By default the host name and the process id. With a
            name that is the same after a restart, other nodes can notice that this one crashes again and again.
        balancer: decides which tasks to claim, bid for and give up. By default `FairBalancer()`.
        capacity: the maximum number of tasks to hold at once, None for no limit.
        tags: labels for balancers: at most 64, each of 1 to 64 characters.
        grace: seconds between setting `task.stopping` and cancelling the task's scope. There is no grace if the session
            is lost.
        cleanup_timeout: the maximum number of seconds for which `task.cleanup()` shields.
        drain_timeout: the maximum number of seconds for which a drain waits for other nodes to take the tasks.
        on_overrun: the reaction if a scope has not closed by the end of the lease because the handler blocks the event
            loop or shields itself: "log" it, or "exit" the process (status 70, tracebacks of all threads on stderr).
        blocked_timeout: the seconds for which a node whose event loop is blocked keeps its session. Its tasks do not go
            on meanwhile, and no other node takes them, because the blocking one may still be running. By default three
            session timeouts; `math.inf` for ever. It has no effect with `on_overrun="exit"`, which is quicker.
        settle: seconds to wait after a node has joined before claiming or bidding, since more nodes may be joining.
        backup_delay: seconds after which the next node steps in for a task that its first choice has not claimed.
        max_handovers: the maximum number of tasks being handed over at any moment; with 0, none is ever handed over. It
            begins with 16, and there are more only while the broker keeps up, so that no task waits long for its heir.
            A task that takes longer than `grace` and `cleanup_timeout` to stop no longer counts.
        suspend_after_failures: the number of tasks in a row that may fail within ten minutes, each after less than a
            minute, before this node takes no more tasks, except one at a time on trial, until one succeeds; None to
            let any number fail.
        observers: functions that get every event; see `metafora_trio.events`.
        clock: the source of recorded dates and times. By default the machine's clock.
        rng: the source of jitter.

    A consumer can run again after it has ended, but only once at a time. Call its methods in the Trio thread.
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
        blocked_timeout: float | None = None,
        settle: float = 1.5,
        backup_delay: float = 3.0,
        max_handovers: int = 256,
        suspend_after_failures: int | None = 3,
        observers: Sequence[Observer] = (),
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"the handler must be an async function, not {handler!r}")
        observers = tuple(observers)
        for observer in observers:
            if inspect.iscoroutinefunction(observer) or not callable(observer):
                raise TypeError(f"an observer must be a plain function of one event, not {observer!r}")
        if isinstance(tags, str):
            raise TypeError(f"tags must be several strings, not the one {tags!r}")
        self.coordinator: Coordinator = coordinator
        self.handler: Handler = handler
        self._settings = ConsumerSettings(
            name=name if name is not None else default_name(),
            balancer=balancer if balancer is not None else FairBalancer(),
            capacity=capacity,
            tags=frozenset(tags),
            grace=grace,
            cleanup_timeout=cleanup_timeout,
            drain_timeout=drain_timeout,
            on_overrun=on_overrun,
            blocked_timeout=blocked_timeout,
            settle=settle,
            backup_delay=backup_delay,
            max_handovers=max_handovers,
            suspend_after_failures=suspend_after_failures,
            clock=clock if clock is not None else SystemClock(),
            rng=rng if rng is not None else random.Random(),
        )
        self._logger = logging.getLogger("metafora_trio.consumer")
        self._stream = EventStream([LogObserver(self._logger), *observers])
        self._emit = self._stream.emit
        self._experience = Experience(FailureStreak(self._settings.suspend_after_failures))
        self._membership: Membership | None = None
        self._running = AsyncBool()
        self._draining = AsyncBool()
        self._frozen = False
        self._sessions = 0

    # ---- state

    @property
    def name(self) -> str:
        """The node's name, for people."""
        return self._settings.name

    @property
    def tasks(self) -> Mapping[str, RunningTask]:
        """The tasks that run here and have not been told to stop, by id. A copy."""
        return dict(self._membership.running) if self._membership is not None else {}

    @property
    def frozen(self) -> bool:
        """True if the node claims nothing, bids for nothing and hands nothing over. Outlasts the session."""
        return self._frozen

    def statistics(self) -> ConsumerStatistics:
        """Return the state of the consumer at this moment."""
        m = self._membership
        return ConsumerStatistics(
            node=m.session.node.identity if m is not None else None,
            tasks_running=len(m.running) if m is not None else 0,
            tasks_open=len(m.runs) if m is not None else 0,
            tasks_stuck=len(self._experience.stuck),
            loop_lag=m.loop.lag if m is not None else 0.0,
            sessions=self._sessions,
            requests_outstanding=m.session.outstanding if m is not None else 0,
            events_dropped=self._stream.dropped,
            draining=self._draining.value,
            frozen=self._frozen,
        )

    def subscribe(self, buffer: int = 10_000) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """Follow the consumer's events: `with consumer.subscribe() as events: async for event in events: ...`.

        Args:
            buffer: the number of events that may wait. A subscriber that lags further loses events (`events_dropped`).
        """
        return self._stream.subscribe(buffer)

    def __repr__(self) -> str:
        if not self._running.value:
            state = "idle"
        else:
            state = "draining" if self._draining.value else "frozen" if self._frozen else "running"
        return f"<Consumer {self.name!r} {state}, {len(self.tasks)} tasks>"

    # ---- control

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - it does, in the loop
        """Join the cluster and run tasks until drained or cancelled. `task_status.started` is called on the first join.

        If the session is lost, all its tasks end, an event reports the loss, and the node tries to join again until it
        succeeds.

        Cancellation stops every task at once and closes the session. Other nodes then take the tasks. Use `drain` to
        leave without such a gap.

        Raises:
            CoordinatorUnavailable: the first join failed.
            trio.BusyResourceError: the consumer is already running.
        """
        if self._running.value:
            raise trio.BusyResourceError(f"{self!r} is already running")
        self._running.value = True
        self._sessions = 0
        try:
            with unwrap_errors():
                async with trio.open_nursery() as nursery:
                    await self._keep_joined(nursery, task_status)
        finally:
            self._draining.value = False
            self._running.value = False

    async def _keep_joined(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Join, and join again whenever the session was lost, until the node has drained."""
        attempts = 0

        def joined(session: Session) -> Membership:
            return self._join(session, task_status)

        while not self._draining.value:
            began = trio.current_time()
            run = SessionRun(self.coordinator, self._node_info(), joined, self._leave, self._emit)
            nursery.start_soon(run.run, name=f"metafora session of {self.name}")
            await run.wait_parted()
            if not run.over and run.membership is not None:
                self._part(run.membership)
            elif run.error is None:
                return
            if run.membership is None and not self._sessions:
                assert run.error is not None
                raise run.error
            if run.membership is not None and trio.current_time() - began > _REJOIN_MOST:
                attempts = 0  # else the cause may soon end the next session too
            most = _rejoin_delay(attempts)
            delay = self._settings.rng.uniform(most / 2, most)
            attempts += 1
            if run.membership is None and run.error is not None:
                self._emit(JoinFailed(self.name, run.error, delay))
            with trio.move_on_after(delay):
                await self._draining.wait_value(True)
        if not self._sessions:
            task_status.started()  # drained before the first join: `nursery.start` must return nevertheless

    def _join(self, session: Session, task_status: trio.TaskStatus[None]) -> Membership:
        """Make this node's membership in a session just opened."""
        self._sessions += 1
        self._emit(SessionOpened(session.node.identity, session.session_timeout))
        membership = self._membership = Membership(
            session, self.handler, self._settings, self, self._experience, emit=self._emit, logger=self._logger
        )
        if self._sessions == 1:
            task_status.started()
        if self._frozen != session.node.frozen:  # changed during the join
            membership.set_frozen(self._frozen)
        if self._draining.value:
            membership.drain()
        return membership

    def _leave(self, membership: Membership) -> None:
        """Forget a membership, unless this node has joined again since."""
        if self._membership is membership:
            self._membership = None

    def _part(self, membership: Membership) -> None:
        """Let go of a membership that only scopes that do not close keep alive."""
        self._leave(membership)
        stuck = membership.open_runs()
        self._experience.stuck.add(stuck)
        for run in stuck:
            stack = stack_of(run.trio_task) if run.trio_task is not None else ""
            self._emit(TaskStuck(run.claim.node, run.id, run.claim.seq, stack))

    async def drain(self) -> None:
        """Leave gracefully: claim nothing more, hand over every task, then end the session. Wait until `run` has ended.

        Each task keeps running here until another node has bid for it. After `drain_timeout`, or if no other node can
        take tasks, the remaining tasks are stopped and given up. Cancelling this call does not end the drain. If the
        consumer is not running, its next `run` returns at once.
        """
        self.start_draining()
        if self._running.value:
            await self._running.wait_value(False)
        else:
            await trio.lowlevel.checkpoint()

    def start_draining(self) -> None:
        """Begin to drain, and return at once. If the consumer is not running, its next `run` returns at once too."""
        self._draining.value = True
        if self._membership is not None:
            self._membership.drain()

    def freeze(self) -> None:
        """Freeze the node: until `unfreeze` it claims nothing, bids for nothing and hands nothing over.

        Its tasks keep running. A frozen node can be drained.
        """
        self._set_frozen(True)

    def unfreeze(self) -> None:
        """End a `freeze`."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        if frozen != self._frozen:
            self._frozen = frozen
            if self._membership is not None:
                self._membership.set_frozen(frozen)

    def _node_info(self) -> NodeInfo:
        return NodeInfo(
            self.name,
            since=self._settings.clock.now().timestamp(),
            capacity=self._settings.capacity,
            tags=self._settings.tags,
            frozen=self._frozen,
        )


@asynccontextmanager
async def open_consumer(
    coordinator: Coordinator, handler: Handler, **options: Unpack[ConsumerOptions]
) -> AsyncGenerator[Consumer]:
    """Run a consumer beside the body: `async with open_consumer(coordinator, handler) as consumer: ...`.

    The arguments are those of `Consumer`. The body begins when the node has joined. When the body ends normally, the
    node drains (waiting at most `drain_timeout` seconds for other nodes). On an exception or a cancellation it stops at
    once. Exceptions of the body propagate as they are, never in a group.

    Raises:
        CoordinatorUnavailable: the first join failed.
    """
    consumer = Consumer(coordinator, handler, **options)
    async with open_service_nursery() as nursery:
        await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        yield consumer
        await consumer.drain()
