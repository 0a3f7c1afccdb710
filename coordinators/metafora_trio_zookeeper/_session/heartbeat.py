"""Heartbeat: proves that the session is alive, and renews its lease.

A heartbeat is a transaction that only checks the node's own znode. Only a quorum can answer it. A read or ping would
not do: a follower that is cut off from its leader answers those for seconds after the leader has expired the session.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

import trio

from metafora_trio.contract import Lease, LeaseTerms
from metafora_trio_zookeeper._connection import Connection, ConnectionState, Done, ErrorCode, Reply, RequestError
from metafora_trio_zookeeper._replies import is_broken

__all__ = ["Heartbeat", "suspended_seconds"]

_log = logging.getLogger("metafora_trio.zookeeper")

_EXACT = 0.001
"""Seconds that may pass while the clocks are read."""
_READINGS = 5
"""How often to read the clocks until that is so."""


def suspended_seconds() -> float:
    """Return how many seconds this machine has been suspended since it booted; 0 if the system does not report it.

    During a suspend Trio's clock stops, but the server's does not. The result may be too low by the time for which this
    process was paused between two clock readings, if that happened several times in a row. It is never too high.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    highest = -math.inf
    for _ in range(_READINGS):
        before = time.clock_gettime(time.CLOCK_MONOTONIC)
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        after = time.clock_gettime(time.CLOCK_MONOTONIC)
        if after - before < _EXACT:
            return boot - after
        highest = max(highest, boot - after)
    return highest


class Heartbeat:
    """Sends heartbeats over one session's connection and keeps its lease.

    Args:
        connection: the session's.
        path: the node's own znode.
        lease: the lease to renew.
        renewed: called whenever the lease has changed.
        over: called with the reason when the session must be considered lost.
        deliveries: returns a number that changes whenever something arrives from the server.
        suspended: see `suspended_seconds`.
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        lease: Lease,
        *,
        renewed: Callable[[], None],
        over: Callable[[str], None],
        deliveries: Callable[[], int],
        suspended: Callable[[], float],
    ) -> None:
        self.terms = LeaseTerms(0.0)
        self._connection = connection
        self._path = path
        self._lease = lease
        self._renewed = renewed
        self._over = over
        self._deliveries = deliveries
        self._suspended = suspended
        self._number = 0
        self._previous = 0.0
        # The stamp and the sending time of each unanswered heartbeat, oldest first.
        self._unanswered: deque[tuple[float, float]] = deque()
        self._last_deliveries = 0
        self._last_received = 0
        self._last_arrival = 0.0
        self._last_suspended = suspended()
        self._started = trio.Event()

    def set_terms(self, terms: LeaseTerms) -> None:
        """Use the terms that this connection has negotiated."""
        if self._lease.finite:
            # From this connect on, the server may use a shorter timeout than the one the lease was based on.
            established = self._connection.connected_at
            self._lease.limit(established + terms.until_cancel, established + terms.until_end)
            self._renewed()
        self.terms = terms
        self._started.set()

    def send(self, done: Done | None = None) -> None:
        """Send one heartbeat. The first on a connection is part of its barrier; `done` is then a slot of that burst."""
        connection, now = self._connection, trio.current_time()
        if self._number != connection.number:
            self._number = connection.number
            self._previous = connection.connected_at
            self._unanswered.clear()
            self._last_arrival = now
        stamp = self.terms.stamp(now, self._previous)
        self._previous = now
        self._unanswered.append((stamp, now))

        def answered(reply: Reply | RequestError) -> None:
            self._answered(reply)
            if done is not None:
                done(reply)

        connection.heartbeat(self._path, stamp, answered)

    def _answered(self, reply: Reply | RequestError) -> None:
        if isinstance(reply, Reply):
            self.renew()
        elif reply.code is ErrorCode.NO_NODE:
            self._over("the node's znode is gone")
        elif not is_broken(reply):
            self._over(f"a heartbeat was refused: {reply}")

    def renew(self) -> None:
        """Renew the lease from the newest proof. The connection has it before the replies get through a backlog."""
        if self._lease.renew(self.terms, self._connection.proof, trio.current_time()):
            self._renewed()

    async def run(self) -> None:
        """Send heartbeats and check for their answers, until cancelled."""
        await self._started.wait()
        while True:
            now = trio.current_time()
            self.renew()
            self.check_suspended()
            if self._silent(now):
                # Perhaps our messages arrive, but no answer does. Each attempt to connect would then keep the session
                # alive, and no other node could own its tasks.
                self._over("no answer for two session timeouts after the lease ran out")
            due = now + self.terms.heartbeat_period
            if self._beating and self._overdue(now):
                _log.warning("no answer from %s to a heartbeat; trying another server", self._connection.server)
                self._connection.drop()
            elif self._beating:
                if now >= self._previous + self.terms.heartbeat_period:
                    self.send()
                due = self._previous + self.terms.heartbeat_period
            await trio.sleep_until(due)

    @property
    def _beating(self) -> bool:
        """True once the barrier of the present connection has been sent. No heartbeat may be sent before it."""
        connected = self._connection.state is ConnectionState.CONNECTED
        return connected and self._number == self._connection.number

    def _silent(self, now: float) -> bool:
        """Return whether no heartbeat was acknowledged for two session timeouts more than a lease lasts.

        Not judged by the lease itself, which is final once it has fired, even if the answers come again.
        """
        return self._lease.finite and now > (
            self._connection.proof + self.terms.until_end + 2 * self.terms.session_timeout
        )

    def _overdue(self, now: float) -> bool:
        """Return whether a heartbeat has been unanswered for T/6 while nothing else arrived either.

        A part of a reply counts: on a slow link, a large one may arrive for longer than that.
        """
        received, deliveries = self._connection.received, self._deliveries()
        if self._connection.backlog or received != self._last_received or deliveries != self._last_deliveries:
            self._last_received, self._last_deliveries = received, deliveries
            self._last_arrival = now
        while self._unanswered and self._unanswered[0][0] <= self._connection.proof:
            self._unanswered.popleft()
        if not self._unanswered:
            return False
        return now - max(self._unanswered[0][1], self._last_arrival) > self.terms.session_timeout / 6

    def check_suspended(self) -> None:
        """End the session if the machine was suspended since the last check, because its claims may be gone."""
        suspended = self._suspended()
        uncounted = suspended - self._last_suspended
        if uncounted > self.terms.margin:
            # The servers counted these seconds, so the lease may have ended already. If it has, no time is left to
            # clean up.
            self._lease.limit(self._lease.cancel_at - uncounted, self._lease.end - uncounted)
            self._over(f"the machine was suspended for {uncounted:.1f} s")
        # Keep the maximum: a reading may be too low, and the next right one must not look like a suspend.
        self._last_suspended = max(self._last_suspended, suspended)
