"""The records of nodes: decoded as far as possible, and checked at joining."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from metafora_trio import CoordinatorUnavailable, NodeInfo
from metafora_trio.contract import InvalidRecord
from metafora_trio_zookeeper._connection import ReadResult, RequestError

__all__ = ["check_readable", "decode_node"]

_log = logging.getLogger("metafora_trio.zookeeper")


def decode_node(identity: str, record: ReadResult | RequestError | None) -> NodeInfo | None:
    """Decode a node's record, or return None if there is no such node.

    A persistent znode is no node: it belongs to no session, so somebody made it by hand, and nobody would act for it.
    If a node's record cannot be decoded, or the read was refused, return a stand-in that gets no more tasks: one bad
    record must not end the sessions of all other nodes.
    """
    if record is None or (isinstance(record, ReadResult) and record.ephemeral_owner == 0):
        return None
    try:
        if isinstance(record, RequestError):
            raise record
        return NodeInfo.decode(identity, record.data)
    except (InvalidRecord, RequestError) as error:
        _log.warning("cannot read the record of node %s: %s", identity, error)
        return NodeInfo.unreadable(identity, error)


def check_readable(records: Mapping[str, ReadResult | RequestError | None]) -> None:
    """Check, at joining, that this node may read the records of all others, by path.

    A node creates its claims with the same ACL as its record, and a server sends no events of what may not be read. So
    this node would not see those claims, and would believe that it owns their tasks. It is enough that the later of two
    nodes checks: it lists the nodes after it has created its own record.

    Raises:
        CoordinatorUnavailable: one may not be read.
    """
    for path, record in records.items():
        if isinstance(record, RequestError):
            raise CoordinatorUnavailable(
                f"this node may not read {path}: {record}; it would not see that node's claims. "
                "Give all nodes the same credentials and ACLs"
            )
