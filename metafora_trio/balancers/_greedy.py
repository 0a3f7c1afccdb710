"""GreedyBalancer: Go Metafora's DumbBalancer."""

from __future__ import annotations

from ._base import Balancer

__all__ = ["GreedyBalancer"]


class GreedyBalancer(Balancer):
    """Takes everything and gives nothing up: Go Metafora's DumbBalancer."""

    even = False

    def consent(self, task: str, heir: str) -> bool:
        return False
