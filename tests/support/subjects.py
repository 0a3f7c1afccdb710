"""The subject of the conformance suite on the embedded coordinator."""

from __future__ import annotations

from metafora_trio import MemoryCoordinator
from metafora_trio.contract import Session
from metafora_trio.testing.conformance import Subject

__all__ = ["memory_subject"]


def memory_subject(*, latency: float) -> Subject:
    """Return a `MemoryCoordinator` as the subject of the conformance suite."""
    coordinator = MemoryCoordinator(latency=latency)

    async def expire(session: Session) -> None:
        coordinator.expire(session.node.identity)

    return Subject(coordinator, expire)
