"""decode_node: a node's record as read, even if it cannot be read or decoded."""

from __future__ import annotations

import logging

from metafora_trio import NodeInfo
from metafora_trio.contract import InvalidRecord
from metafora_trio_zookeeper._connection import ReadResult, RequestError

__all__ = ["decode_node"]

_log = logging.getLogger("metafora_trio.zookeeper")


def decode_node(identity: str, record: ReadResult | RequestError) -> NodeInfo:
    """Decode a node's record. If that fails, or the read was refused, return a stand-in that gets no more tasks: one
    bad record must not end the sessions of all other nodes."""
    try:
        if isinstance(record, RequestError):
            raise record
        return NodeInfo.decode(identity, record.data)
    except (InvalidRecord, RequestError) as error:
        _log.warning("cannot read the record of node %s: %s", identity, error)
        return NodeInfo.unreadable(identity, error)
