"""GreedyBalancer: takes every task and hands none over, like Go Metafora's DumbBalancer."""

from __future__ import annotations

from ._base import Balancer

__all__ = ["GreedyBalancer"]


class GreedyBalancer(Balancer):
    """Takes every task it can and hands none over, like Go Metafora's DumbBalancer."""

    even = False

    def consent(self, task: str, heir: str) -> bool:
        return False
