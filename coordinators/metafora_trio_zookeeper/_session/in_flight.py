"""InFlight: a session's requests whose outcome is not known yet, and the bytes that its claims take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metafora_trio import Claim
from metafora_trio_zookeeper._layout import MAX_SESSION_BYTES

from .batch import Unit
from .refusals import Refusals

__all__ = ["InFlight"]

_TYPICAL_ID = 36
"""Characters of a task id to assume while there are no claims to average over: those of a UUID."""


class InFlight:
    """The requests that one session has in flight.

    Each entry holds the unit it waits for. Otherwise a late reply to an earlier unit could remove a later unit's entry.

    Args:
        identity: the session's own; empty for a client, which has nothing in flight.
        size: returns how many bytes a claim for a task adds to the transaction that closes the session.
        again: called with a task whose end may be tried again.

    Attributes:
        pending: by task, the unit that creates a claim or bid that is not in the view yet.
        leaving: by claim, the unit that gives it up.
        refusals: the claims whose end was refused. They are not in `leaving`, since nothing is in flight for them.
        released: the claims that must be deleted unconditionally.
    """

    def __init__(
        self, identity: str, size: Callable[[str], int], again: Callable[[str], None] = lambda task: None
    ) -> None:
        self.identity = identity
        self.refusals = Refusals(again)
        self.pending: dict[str, Unit] = {}
        self.leaving: dict[Claim, Unit] = {}
        self.released: dict[Claim, None] = {}
        self._size = size
        self._bytes = 0
        self._count = 0

    def is_leaving(self, claim: Claim) -> bool:
        """Return whether the claim's end was requested, and is in flight or must wait after a refusal."""
        return claim in self.leaving or self.refusals.holds(claim)

    @property
    def free(self) -> int:
        """The number of further claims that fit, if each has the average size of the claims in the view."""
        typical = self._bytes / self._count if self._count else self._size("-" * _TYPICAL_ID)
        return max(0, int((MAX_SESSION_BYTES - self._bytes) / typical))

    def appeared(self, claim: Claim) -> None:
        """Note that one of the session's claims has appeared in the view."""
        self.pending.pop(claim.task, None)
        self._bytes += self._size(claim.task)
        self._count += 1

    def gone(self, claim: Claim) -> None:
        """Note that one of the session's claims has gone from the view."""
        self.leaving.pop(claim, None)
        self.released.pop(claim, None)
        self.refusals.gone(claim)
        self._bytes -= self._size(claim.task)
        self._count -= 1

    def restart(self, own: Iterable[Claim]) -> None:
        """Start again with the claims of the session that a resync found: nothing is in flight any more.

        A released claim that still exists stays in `released`; the caller must request its deletion again.
        """
        self.pending.clear()
        self.leaving.clear()
        self._bytes = self._count = 0
        released, self.released = self.released, {}
        own = list(own)
        self.refusals.restart(own)
        for claim in own:
            self.appeared(claim)
            if claim in released:
                self.released[claim] = None
