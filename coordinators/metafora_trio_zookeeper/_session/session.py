"""ZooKeeperSession: one membership of one node, on its own connection.

Its main tasks: `Writes` sends its requests, `Heartbeat` keeps its lease, and `_follow` joins on the first connect and
resyncs on each later one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import trio

from metafora_trio import Claim, CoordinatorUnavailable, NodeInfo, SessionLost, TaskState
from metafora_trio.contract import (
    MAX_NOTICES,
    MIN_SESSION_TIMEOUT,
    Changes,
    ClaimKind,
    ClusterView,
    Lease,
    LeaseTerms,
    QueuedCommand,
    Session,
    StoredTask,
    TaskRefused,
)
from metafora_trio_zookeeper._connection import (
    Connection,
    ConnectionState,
    EventType,
    RequestError,
    SetData,
)
from metafora_trio_zookeeper._layout import Layout, decode_record
from metafora_trio_zookeeper._namespace import ensure_namespace
from metafora_trio_zookeeper._replies import Burst, is_broken

from .audit import run_audit
from .barrier import Barrier
from .heartbeat import Heartbeat
from .in_flight import InFlight
from .live_view import LiveView
from .record_sizes import RecordSizes
from .upkeep import Upkeep
from .writes import Writes

__all__ = ["ZooKeeperSession"]

_FLUSH_TIMEOUT = 2.0
"""Seconds to wait, when the session is left, until the claims given up are gone."""

_REFUSED_RESYNC = 5.0
"""Seconds until a refused resync is tried again. The session is over, but without a view it can give up no claim while
a scope is still open."""

_log = logging.getLogger("metafora_trio.zookeeper")


class ZooKeeperSession(Session):
    """See `Session`. `ZooKeeperCoordinator.open_session` makes it, runs `serve` and closes it.

    Args:
        connection: a connection for this session only; the coordinator opens and closes it.
        layout: the namespace.
        node: this node, with the session's own identity.
        asked_timeout: the requested session timeout, in seconds.
        rng: for jitter.
        sizes: how many task records to read at a time.
        suspended: see `suspended_seconds`.
        now: returns the date and time, in seconds since 1970.
        watched: see `Session.watched`.

    Attributes:
        scope: the cancel scope of the body; its deadline is the lease.
        lost: why the session is over; None before.
        server: the server last used, as `host:port`.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        node: NodeInfo,
        *,
        asked_timeout: float,
        rng: random.Random,
        sizes: RecordSizes,
        suspended: Callable[[], float],
        now: Callable[[], float],
        watched: bool = True,
    ) -> None:
        self.node = node
        self.view = ClusterView()
        self.lease = Lease()
        self.scope = trio.CancelScope()
        self.lost: SessionLost | None = None
        self.server = ""
        self._now = now
        self._watched = watched
        self._me = node.identity
        self._connection = connection
        self._rng = rng
        self._layout = layout
        self._path = layout.node_path(self._me)
        self._asked_timeout = asked_timeout
        self._in_flight = InFlight(
            self._me, lambda task: layout.claim_size(task, self._me), lambda task: self._live.touch(task)
        )
        self._live = LiveView(connection, layout, self._in_flight, rng, sizes)
        self._writes = Writes(connection, layout, self._live, self._in_flight, node, self._refused)
        self._upkeep = Upkeep(
            connection, layout, self._live, self._writes, self._me, lambda: self._heartbeat.terms.session_timeout
        )
        self._heartbeat = Heartbeat(
            connection,
            self._path,
            self.lease,
            renewed=self._on_renewed,
            over=self._on_over,
            deliveries=lambda: self._live.deliveries,
            suspended=suspended,
        )
        self._barriers = Barrier(
            connection,
            layout,
            self._path,
            self._heartbeat,
            refused=self._refused,
            mismatch=lambda error: self.end(str(error), error),
        )
        self._token = trio.lowlevel.current_trio_token()
        self._joined = trio.Event()
        self._failure: Exception | None = None
        self._closing = False

    # ---- the view, for the consumer

    @property
    def current(self) -> bool:
        # Also while the body of a session that is over still closes: it must give up what has closed.
        return self._live.current and not self._closing

    @property
    def quiet(self) -> bool:
        return not self._connection.backlog

    @property
    def watched(self) -> bool:
        return self._watched

    @property
    def session_timeout(self) -> float:
        return self._heartbeat.terms.session_timeout

    async def wait_changed(self) -> None:
        await self._live.wait_changed()

    def take_changes(self) -> Changes:
        return self._live.take_changes()

    async def read(self, task: str) -> StoredTask | None:
        live = self._live
        while True:
            if found := await live.records.take(task):
                # The caller may be about to open a run's scope, and Trio's clock stops while a machine is suspended.
                self._heartbeat.check_suspended()
                record = found[0]
                if isinstance(record, RequestError):
                    raise TaskRefused(f"cannot read task {task!r}: {record}") from record
                return decode_record(task, record)
            # Do not read before the barrier, because a server that lags would return an old record. A session that is
            # over waits here until it is cancelled, which is about to happen.
            await live.wait_current()
            live.read_ahead([task])

    def is_pending(self, task: str) -> bool:
        return task in self._in_flight.pending

    @property
    def pending(self) -> int:
        return len(self._in_flight.pending)

    def is_leaving(self, claim: Claim) -> bool:
        return self._in_flight.is_leaving(claim)

    @property
    def refusals(self) -> Mapping[str, str]:
        return self._in_flight.refusals.reasons

    @property
    def outstanding(self) -> int:
        return self._writes.outstanding

    @property
    def free_claims(self) -> int:
        return self._in_flight.free

    # ---- requests

    def claim(self, task: str) -> None:
        if self.current and self._failure is None:
            self._writes.create_claim(task, ClaimKind.CLAIM)

    def bid(self, task: str) -> None:
        if self.current and self._failure is None:
            self._writes.create_claim(task, ClaimKind.BID)

    def release(self, claim: Claim) -> None:
        if not self._closing:
            self._writes.release(claim)

    def withdraw(self, claim: Claim, head: Claim) -> None:
        if self.current:
            self._writes.give_up_if(claim, head)

    def hand_over(self, claim: Claim, heir: Claim) -> None:
        if self.current:
            self._writes.give_up_if(claim, heir)

    def finish(self, claim: Claim, state: TaskState | None) -> None:
        if self.current:
            self._writes.finish(claim, state)

    def announce(self, node: NodeInfo) -> None:
        self.node = node
        if not self._closing:
            self._writes.announce(node)

    def queued_commands(self) -> Sequence[QueuedCommand]:
        return self._writes.queued_commands()

    def discard(self, queued: QueuedCommand) -> None:
        if self.current:
            self._writes.remove_command(queued.id)

    # ---- in the watchdog's thread

    def report_blocked(self, since: float) -> None:
        if self._failure is not None or self._closing or not self._joined.is_set():
            return
        when = datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
        notices = (f"its event loop has been blocked since {when}", *self.node.notices[: MAX_NOTICES - 1])
        self._connection.send_from_thread([SetData(self._path, replace(self.node, notices=notices).encode())])
        with suppress(trio.RunFinishedError):  # then there is no loop that could run again
            self._token.run_sync_soon(self._on_unblocked)

    def abandon(self, reason: str) -> None:
        self._connection.halt_from_thread(reason)

    def _on_unblocked(self) -> None:
        """Correct the node's record, now that the event loop runs again. Runs in the Trio thread."""
        if not self._closing:
            self._writes.announce_again()

    # ---- its life, for the coordinator

    async def serve(self) -> None:
        """Run the session's background tasks, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writes.run)
            nursery.start_soon(self._in_flight.refusals.run)
            nursery.start_soon(self._live.changed_tasks.run)
            nursery.start_soon(self._heartbeat.run)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._upkeep.run)
            nursery.start_soon(run_audit, self._connection, self._layout, self._live, self._rng)

    async def wait_joined(self) -> None:
        """Wait until the session is current for the first time.

        Raises:
            RequestError, CoordinatorUnavailable, SessionLost: the session cannot join.
        """
        await self._joined.wait()
        if self._failure is not None:
            raise self._failure

    async def flush(self) -> None:
        """Wait until the claims given up are gone, for at most 2 s and not beyond the lease. Shielded."""
        deadline = min(trio.current_time() + _FLUSH_TIMEOUT, self.lease.cancel_at)
        with trio.CancelScope(shield=True, deadline=deadline):
            while self.current and (self._in_flight.leaving or self._in_flight.released):
                await self._live.wait_changed()
                self._live.take_changes()

    def close(self) -> None:
        """Ignore all further requests."""
        self._closing = True

    @property
    def progress(self) -> str:
        """The progress of joining, for an error message."""
        if not self._connection.number:
            return "no connection was made"
        state = self._connection.state.value
        return f"{self.server} was reached (now {state}), but a quorum did not answer"

    def end(self, reason: str, cause: Exception | None = None) -> None:
        """End the session. Only the first call counts."""
        if self._failure is not None or self._closing:
            return
        self.lost = SessionLost(f"node {self._me}: {reason}")
        self.lost.__cause__ = cause
        if self._joined.is_set():
            self._failure = self.lost
            self.lease.limit(trio.current_time(), self.lease.end)
            self.scope.cancel(reason=str(self.lost))
        else:  # there is no body to cancel yet, but a task in `wait_joined`, which raises the cause
            self._failure = cause or self.lost
            self._joined.set()

    def _refused(self, what: str, error: RequestError) -> None:
        self.end(f"{what}: {error}", error)

    def _on_over(self, reason: str) -> None:
        """End the session now, because its claims may be gone. Only the lease's margin is left to close the runs."""
        now = trio.current_time()
        self.lease.limit(now, now + self._heartbeat.terms.margin)
        self.end(reason)

    def _on_renewed(self) -> None:
        self.scope.deadline = self.lease.cancel_at

    # ---- Sink

    def on_event(self, event: EventType, path: str) -> None:
        self._heartbeat.check_suspended()
        self._live.on_event(event, path)

    def on_state(self, state: ConnectionState) -> None:
        self._live.on_state(state)
        self._writes.suspend()
        if state is ConnectionState.CONNECTED:
            self.server = self._connection.server
            self._take_terms()
        elif state is not ConnectionState.DISCONNECTED:
            self._on_over(self._connection.halted or f"the session has ended: {state.value}")

    def _take_terms(self) -> None:
        timeout, asked = self._connection.session_timeout, self._asked_timeout
        known = self._heartbeat.terms.session_timeout
        # Keep the shortest timeout that any server has granted. A new leader restarts a session with the one that it
        # was created with, and a report of the server before may still arrive and count with that server's.
        if known and timeout >= known:
            return
        both = f"asked for a session timeout of {asked:g} s, but {self.server} grants {timeout:g} s"
        if timeout < MIN_SESSION_TIMEOUT:
            problem = f"{both}, less than the required {MIN_SESSION_TIMEOUT:g} s"
            self.end(problem, CoordinatorUnavailable(problem))
            return
        if abs(timeout - asked) > 0.001:
            _log.warning("node %s %s", self._me, both)
        self._heartbeat.set_terms(LeaseTerms(timeout))

    # ---- joining, and resyncs

    async def _follow(self) -> None:
        while True:
            await self._live.wait_connected()
            number = self._connection.number
            try:
                if not self._joined.is_set():
                    await ensure_namespace(self._connection, self._layout, self._now())
                    self._layout.check_acl()
                synced = await self._live.sync(self._barrier)
            except RequestError as error:
                if not is_broken(error):
                    self._refused(f"reading {self._layout.root}", error)
                    await trio.sleep(_REFUSED_RESYNC)
                    if self._connection.number == number:
                        self._connection.drop()
            except CoordinatorUnavailable as error:
                self.end(str(error), error)
            else:
                if synced:
                    self.view = self._live.view
                    self._writes.resume()
                    if not self._joined.is_set():
                        self._live.take_changes()  # changes are reported relative to the view at joining
                        self._joined.set()

    def _barrier(self, burst: Burst) -> None:
        if self._joined.is_set():
            self._barriers.resync(burst, over=self._failure is not None)
        else:
            self._barriers.join(burst, self.node.encode())
