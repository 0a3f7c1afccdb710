"""A ZooKeeper ensemble on virtual time, in one process."""

from __future__ import annotations

from ._cluster import SimulatedCluster as SimulatedCluster
from ._ensemble import SimulatedZooKeeper as SimulatedZooKeeper
