"""A ZooKeeper ensemble on virtual time, in one process, and the broker through which a simulated cluster uses it."""

from __future__ import annotations

from ._broker import ZooKeeperBroker as ZooKeeperBroker
from ._ensemble import SimulatedZooKeeper as SimulatedZooKeeper
