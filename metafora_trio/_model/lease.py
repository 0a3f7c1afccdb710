"""Lease: the time for which a node may still believe in its session, measured by the node's own clock.

T is the negotiated session timeout, h = T/12 is the heartbeat period, and s is the time at which the last heartbeat
that a quorum has acknowledged was *sent*. Then:

    cancel_at = s + T/2            the scopes of all tasks are cancelled
    end       = s + 2T/3 - margin  every scope must have closed

This is safe because the server expires a session no earlier than s + T - tick/2 - h - eps and negotiates T >= 2 ticks
(ZooKeeper's ExpiryQueue and LearnerHandler; measured with a follower cut off from its leader).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["HEARTBEATS_PER_TIMEOUT", "MIN_SESSION_TIMEOUT", "Lease", "LeaseTerms"]

HEARTBEATS_PER_TIMEOUT = 12
MIN_SESSION_TIMEOUT = 2.0
"""In seconds. With a shorter timeout, the jitter of an event loop would use up the time for cleanup."""


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The durations that follow from a session timeout (all in seconds).

    Args:
        session_timeout: T, as negotiated.
    """

    session_timeout: float

    @property
    def heartbeat_period(self) -> float:
        """The time between two heartbeats."""
        return self.session_timeout / HEARTBEATS_PER_TIMEOUT

    @property
    def margin(self) -> float:
        """The allowance for clock drift and event loop latency."""
        return max(0.05, 0.03 * self.session_timeout)

    @property
    def until_cancel(self) -> float:
        """The time from sending an acknowledged heartbeat until the tasks are cancelled."""
        return self.session_timeout / 2

    @property
    def until_end(self) -> float:
        """The time from sending an acknowledged heartbeat until the lease ends."""
        return self.session_timeout * 2 / 3 - self.margin

    def stamp(self, now: float, previous: float) -> float:
        """Return the time from which a heartbeat sent now counts.

        A late heartbeat counts from when it was due. Otherwise a stalled event loop could stretch the lease, because
        the server may have last touched the session one period before the heartbeat, but no earlier than that.

        Args:
            now: the time of sending.
            previous: when the previous heartbeat on the same connection was sent. For the first heartbeat, when the
                connection was established.
        """
        return min(now, previous + self.heartbeat_period)


@dataclass(slots=True)
class Lease:
    """A node's lease, in Trio time. It stays infinite if the broker is in this process and ends no sessions.

    Once `cancel_at` has passed, the lease is final: nothing renews it. By then tasks are being cancelled because of it,
    and one that does not stop must not look as if it had time again.

    Attributes:
        cancel_at: when the scopes of all tasks are cancelled.
        end: when all of these scopes must have closed.
        proof: the time from which the newest acknowledged heartbeat counts.
    """

    cancel_at: float = math.inf
    end: float = math.inf
    proof: float = field(default=-math.inf, repr=False)
    _followers: dict[Callable[[], None], None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def finite(self) -> bool:
        """True if the lease ends unless it is renewed."""
        return self.end < math.inf

    def follow(self, changed: Callable[[], None]) -> None:
        """Call a function, which must not raise, after each change until `unfollow`."""
        self._followers[changed] = None

    def unfollow(self, changed: Callable[[], None]) -> None:
        """End a `follow`."""
        del self._followers[changed]

    def revoke(self, now: float) -> None:
        """End the lease now because the session is over. No time is left, not even for cleanup."""
        self.limit(now, now)

    def limit(self, cancel_at: float, end: float) -> None:
        """Shorten the lease to these times, as far as it is longer."""
        self.cancel_at = min(self.cancel_at, cancel_at)
        self.end = min(self.end, end)
        self._notify()

    def renew(self, terms: LeaseTerms, proof: float, now: float) -> bool:
        """Extend the lease by a newer acknowledged heartbeat; an older one changes nothing.

        Args:
            terms: the durations.
            proof: the time from which the heartbeat counts (see `LeaseTerms.stamp`).
            now: the current time. If `cancel_at` has passed, the lease is final, and the heartbeat changes nothing.

        Returns:
            True if the lease was extended.
        """
        if proof <= self.proof or now >= self.cancel_at:
            return False
        self.proof = proof
        self.cancel_at = proof + terms.until_cancel
        self.end = proof + terms.until_end
        self._notify()
        return True

    def _notify(self) -> None:
        for changed in tuple(self._followers):
            changed()
