"""Requests of a session whose end is not known yet, and how many bytes its claims take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metafora_trio import Claim
from metafora_trio_zookeeper._layout import MAX_SESSION_BYTES

from .batch import Unit

__all__ = ["InFlight"]

_TYPICAL_ID = 36
"""Characters of a task id, as long as no claim shows what is usual here: those of a UUID."""


class InFlight:
    """What one session has in flight.

    Each entry names the unit it waits for, so that the late end of an earlier unit cannot remove the entry of a later
    one.

    Args:
        identity: the session's own; empty for a client, which has nothing in flight.
        size: what one claim for a task adds to the closing of the session, in bytes.

    Attributes:
        pending: by task, the unit that creates a claim or bid which is not in the view yet.
        leaving: by claim, the unit that gives it up.
        released: claims that must go whatever happens.
    """

    def __init__(self, identity: str, size: Callable[[str], int]) -> None:
        self.identity = identity
        self.pending: dict[str, Unit] = {}
        self.leaving: dict[Claim, Unit] = {}
        self.released: dict[Claim, None] = {}
        self._size = size
        self._bytes = 0
        self._count = 0

    @property
    def free(self) -> int:
        """How many more claims fit. Claims in the view count with their own size, those to come with the average."""
        typical = self._bytes / self._count if self._count else self._size("-" * _TYPICAL_ID)
        return max(0, int((MAX_SESSION_BYTES - self._bytes) / typical))

    def appeared(self, claim: Claim) -> None:
        """Note that an own claim has come into the view."""
        self.pending.pop(claim.task, None)
        self._bytes += self._size(claim.task)
        self._count += 1

    def gone(self, claim: Claim) -> None:
        """Note that an own claim has gone from the view."""
        self.leaving.pop(claim, None)
        self.released.pop(claim, None)
        self._bytes -= self._size(claim.task)
        self._count -= 1

    def restart(self, own: Iterable[Claim]) -> None:
        """Start again after a resync with the claims that are there: nothing is in flight any more.

        A claim in `released` that is still there stays in it, and its deletion has to be requested again.
        """
        self.pending.clear()
        self.leaving.clear()
        self._bytes = self._count = 0
        released, self.released = self.released, {}
        for claim in own:
            self.appeared(claim)
            if claim in released:
                self.released[claim] = None
