"""The ZooKeeper coordinator of Metafora for Trio.

The layers, each importing only those before it:

    _connection                                  the seam: what is needed of a ZooKeeper client
    _layout _replies _batch _marks _records      paths, batching and bookkeeping
    _orders _picture _audit                      the ClusterView that follows ZooKeeper
    _heartbeat _writes _skeleton _session        one membership: the lease, requests, joining
    _client                                      what clients ask for
    _coordinator _url                            what users construct
    _kazoo and the modules below it              the connection, on kazoo

`metafora_trio_zookeeper.testing` starts real ensembles for tests.
"""

from __future__ import annotations

from ._coordinator import ZooKeeperCoordinator as ZooKeeperCoordinator
from ._url import from_url as from_url

__all__ = ["ZooKeeperCoordinator", "from_url"]
