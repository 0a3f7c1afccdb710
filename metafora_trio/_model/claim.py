"""Claims: places in a task's queue; the head of the queue owns the task."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Claim", "ClaimKind"]


class ClaimKind(enum.StrEnum):
    """Why a claim was queued."""

    CLAIM = "c"
    """An attempt to own an unclaimed task; if it does not become the head, it is withdrawn at once."""
    BID = "b"
    """A request for a handover, queued behind the owner's claim."""


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A place in a task's queue of claims; the lowest `seq` is the head, and owns the task.

    Attributes:
        seq: the position, which grows along the queue; also the fencing token.
        task: the task's id.
        node: the identity of the session that holds the claim (`<name>.<mark>`).
        kind: an attempt, or a bid.
    """

    seq: int
    task: str
    node: str
    kind: ClaimKind
