"""ZooKeeper for tests: a real ensemble on this machine, proxies that make trouble, and a simulated one.

* `open_ensemble` (Trio) or `with Ensemble(...)` (scripts, session fixtures): servers as plain java processes,
  which can be killed, paused, and (`linked=True`) cut from each other.
* `SimulatedZooKeeper`: an ensemble on virtual time, in one process, which fails in more ways.
* `SimulatedCluster`: nodes with real consumers on it, and everything that can happen to them.
* `ProxyLoop` and its `TcpProxy`: hold, lose, delay and cut what passes between a client and a server.
"""

from __future__ import annotations

from ._ensemble import Ensemble as Ensemble
from ._ensemble import EnsembleError as EnsembleError
from ._ensemble import free_ports as free_ports
from ._ensemble import open_ensemble as open_ensemble
from ._install import ZooKeeperNotInstalled as ZooKeeperNotInstalled
from ._proxy import ProxyLoop as ProxyLoop
from ._proxy import TcpProxy as TcpProxy
from ._server import Server as Server
from ._simulated_cluster import SimulatedCluster as SimulatedCluster
from ._simulated_ensemble import SimulatedZooKeeper as SimulatedZooKeeper
from ._simulated_node import SimulatedNode as SimulatedNode
