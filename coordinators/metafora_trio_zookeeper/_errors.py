"""Translation of ZooKeeper's errors into Metafora's."""

from __future__ import annotations

from metafora_trio import BrokerTooOld, CoordinatorUnavailable

from ._connection import ErrorCode, RequestError
from ._server_status import server_version

__all__ = ["translate"]

_VERSION_TIMEOUT = 1.0
_HINTS = {
    ErrorCode.NO_AUTH: "; the ACL there does not permit it with these credentials",
    ErrorCode.NO_NODE: "; was the namespace removed?",
    ErrorCode.NOT_EMPTY: "; there is a znode below, which Metafora has not made",
}


async def translate(hosts: str, server: str, error: RequestError) -> CoordinatorUnavailable:
    """Return the error to raise for a refused request.

    Args:
        hosts: as configured.
        server: the server in use, as `host:port`. If it did not know an operation, this requests its version for the
            message; the server may not answer.
        error: the refusal.
    """
    if error.code is not ErrorCode.UNIMPLEMENTED:
        return CoordinatorUnavailable(f"ZooKeeper at {hosts} refuses: {error}{_HINTS.get(error.code, '')}")
    host, _, port = server.rpartition(":")
    version = await server_version(host, int(port), _VERSION_TIMEOUT) if port.isdigit() else None
    found = f"has version {version}" if version else "does not know an operation it needs"
    return BrokerTooOld(f"ZooKeeper at {server or hosts} {found}: Metafora needs 3.6 or newer")
