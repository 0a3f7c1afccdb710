"""FairBalancer: keeps the cluster even with the fewest possible moves."""

from __future__ import annotations

from ._base import Balancer

__all__ = ["FairBalancer"]


class FairBalancer(Balancer):
    """Keeps the cluster within one task of even, with the fewest possible moves. The default."""
