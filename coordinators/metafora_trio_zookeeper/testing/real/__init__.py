"""Real ZooKeeper servers on this machine, and proxies that disturb the network between them and their clients."""

from __future__ import annotations

from ._ensemble import Ensemble as Ensemble
from ._ensemble import EnsembleError as EnsembleError
from ._ensemble import EnsembleOptions as EnsembleOptions
from ._ensemble import free_ports as free_ports
from ._ensemble import open_ensemble as open_ensemble
from ._install import ZooKeeperNotInstalled as ZooKeeperNotInstalled
from ._proxy import ProxyLoop as ProxyLoop
from ._proxy import TcpProxy as TcpProxy
from ._server import Server as Server
