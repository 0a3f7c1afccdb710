"""The brokers that can be simulated, by the names used on the command line and in scripts. Add yours here."""

from __future__ import annotations

from collections.abc import Mapping

from metafora_trio.testing.simulation import BrokerFactory, MemoryBroker
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker

__all__ = ["BROKERS"]

BROKERS: Mapping[str, BrokerFactory] = {"zookeeper": ZooKeeperBroker, "memory": MemoryBroker}
