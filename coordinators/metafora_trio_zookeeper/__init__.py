"""The ZooKeeper coordinator of Metafora for Trio.

The rooms, each importing only those before it (`tests/test_layers.py` holds it):

    _connection _connection_base _replies    the seam: what is needed of a ZooKeeper client, and of one session's life
    _layout _server_status _errors           paths, names and limits; what a server says of itself; errors
    _plain_connection _namespace             work that is done once: making and removing a namespace
    _session/                                one membership: joining, the live view, the lease, requests
    _client _admin/                          what clients and operators ask for
    _kazoo/                                  the connection on kazoo: sees the seam only; the only room with threads
    _coordinator _url                        what users construct; imports kazoo when it first connects
    testing/                                 real and simulated ensembles for tests
"""

from __future__ import annotations

from ._coordinator import ZooKeeperCoordinator as ZooKeeperCoordinator
from ._url import from_url as from_url

__all__ = ["ZooKeeperCoordinator", "from_url"]
