"""Lease: how long a node may still believe in its session, by its own clock.

With T the negotiated session timeout, h = T/12 the heartbeat period and s the moment a heartbeat was *sent*
that was later acknowledged by a quorum:

    cancel_at = s + T/2            the scopes of all tasks are cancelled
    end       = s + 2T/3 - margin  every scope must have closed

It is sound because the server expires a session no earlier than s + T - tick/2 - h - eps and negotiates
T >= 2 ticks (ZooKeeper's ExpiryQueue, LearnerHandler; measured with a follower cut from its leader).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["HEARTBEATS_PER_TIMEOUT", "MIN_SESSION_TIMEOUT", "Lease", "LeaseTerms"]

HEARTBEATS_PER_TIMEOUT = 12
MIN_SESSION_TIMEOUT = 2.0
"""Seconds. Below it the time for cleanup would drown in the jitter of an event loop."""


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The durations that follow from a session timeout (all in seconds).

    Args:
        session_timeout: T, as negotiated.
    """

    session_timeout: float

    @property
    def heartbeat_period(self) -> float:
        """How often to send a heartbeat."""
        return self.session_timeout / HEARTBEATS_PER_TIMEOUT

    @property
    def margin(self) -> float:
        """What drift of clocks and latency of the event loop may take."""
        return max(0.05, 0.03 * self.session_timeout)

    @property
    def until_cancel(self) -> float:
        """From the sending of an acknowledged heartbeat to the cancelling of the tasks."""
        return self.session_timeout / 2

    @property
    def until_end(self) -> float:
        """From the sending of an acknowledged heartbeat to the end of the lease."""
        return self.session_timeout * 2 / 3 - self.margin

    def stamp(self, now: float, previous: float) -> float:
        """What a heartbeat sent now may count from.

        A late one counts from when it was due, or a stalled loop could stretch the lease: the server's
        last touch may be one period older than a heartbeat, but not more.

        Args:
            now: the time of sending.
            previous: when the previous heartbeat on the same connection was sent; for the first, when the
                connection was established.
        """
        return min(now, previous + self.heartbeat_period)


@dataclass(slots=True)
class Lease:
    """A node's lease, in the time of Trio's clock. Infinite where the broker is in the same process.

    Attributes:
        cancel_at: when the scopes of all tasks are cancelled.
        end: when all of them must have closed.
    """

    cancel_at: float = math.inf
    end: float = math.inf
    proof: float = field(default=-math.inf, repr=False)

    @property
    def finite(self) -> bool:
        """Whether it ends at all unless renewed."""
        return self.end < math.inf

    def revoke(self, now: float) -> None:
        """The session is over: there is no time left, not even for cleanup."""
        self.cancel_at = min(self.cancel_at, now)
        self.end = min(self.end, now)

    def renew(self, terms: LeaseTerms, proof: float) -> bool:
        """Count from a newer acknowledged heartbeat; older ones change nothing.

        Returns:
            Whether the lease got longer.
        """
        if proof <= self.proof:
            return False
        self.proof = proof
        self.cancel_at = proof + terms.until_cancel
        self.end = proof + terms.until_end
        return True
