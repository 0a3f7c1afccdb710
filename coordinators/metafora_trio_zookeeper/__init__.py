"""The ZooKeeper coordinator of Metafora for Trio.

Its parts, each of which imports only those above it (`tests/test_layers.py` checks this):

    _connection _connection_base _replies    the seam: the interface to a ZooKeeper client; one session's life; replies
    _layout _server_status _errors           paths, names and limits; a server's own status; errors
    _plain_connection _namespace             one-off work: making and removing a namespace
    _session/                                one membership: joining, the live view, the lease, requests
    _client/ _admin/                         the client, and the tools for operators
    _kazoo/                                  the connection on kazoo: sees the seam only; the only part with threads
    _coordinator _url                        the classes that users construct; kazoo is imported on first connect
    testing/                                 real and simulated ensembles for tests
"""

from __future__ import annotations

from ._coordinator import ZooKeeperCoordinator as ZooKeeperCoordinator
from ._url import from_url as from_url

__all__ = ["ZooKeeperCoordinator", "from_url"]
