"""The ZooKeeper coordinator of Metafora for Trio.

The layers, each importing only those before it:

    _connection _connection_base _replies    the seam: what is needed of a ZooKeeper client
    _layout _server_status _errors           paths, names, limits, and errors
    _plain_connection _namespace             work that is done once: making and removing a namespace
    _session/                                one membership: joining, the live view, the lease, requests
    _client _admin/                          what clients and operators ask for
    _coordinator _url                        what users construct
    _kazoo/                                  the connection, on kazoo: the only room with threads

`metafora_trio_zookeeper.testing` has real and simulated ensembles for tests.
"""

from __future__ import annotations

from ._coordinator import ZooKeeperCoordinator as ZooKeeperCoordinator
from ._url import from_url as from_url

__all__ = ["ZooKeeperCoordinator", "from_url"]
