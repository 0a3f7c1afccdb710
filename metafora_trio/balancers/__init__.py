"""Balancers: decide what a node may claim, what it bids for, what it gives back, and what it hands over.

Subclass `Balancer` to write your own. `FairBalancer` is the default.
"""

from __future__ import annotations

from ._base import Balancer as Balancer
from ._base import BalancerContext as BalancerContext
from ._fair import FairBalancer as FairBalancer
from ._greedy import GreedyBalancer as GreedyBalancer
