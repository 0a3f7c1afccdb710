"""NodeInfo: the record that a node announces about itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_HANDING_OVER", "MAX_NOTICE", "MAX_NOTICES", "NodeInfo", "node_name"]

MAX_NOTICES = 8
"""The largest number of notices in a record. Every node reads every record, so it must stay small."""
MAX_NOTICE = 200
"""The largest number of characters of one notice."""
MAX_HANDING_OVER = 16
"""The largest number of tasks in a record's `handing_over`."""


def node_name(identity: str) -> str:
    """Return the name in a node's identity `<name>.<mark>`. A name is for people and need not be unique."""
    return identity.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The record that a node announces about itself.

    Attributes:
        identity: `<name>.<mark>`, unique for each session.
        since: when the session began, in seconds since the epoch.
        capacity: the maximum number of tasks it holds at once, None for no limit.
        weight: its share relative to other nodes. Stored for custom balancers; the built-in ones ignore it.
        tags: labels for balancers.
        draining: the node is leaving, and other nodes may bid for its tasks.
        frozen: the node claims nothing, bids for nothing and hands nothing over.
        full: the node can hold no more claims at present, whatever its capacity says.
        notices: what people should know about the node, such as a task that it cannot read: at most `MAX_NOTICES`
            lines of at most `MAX_NOTICE` characters. No node decides anything by them.
        handing_over: tasks that it has been stopping on behalf of other nodes for some seconds, at most
            `MAX_HANDING_OVER`. Those nodes keep their bids until the tasks have stopped.
    """

    identity: str
    since: float = 0.0
    capacity: int | None = None
    weight: float = 1.0
    tags: frozenset[str] = frozenset()
    draining: bool = False
    frozen: bool = False
    full: bool = False
    notices: tuple[str, ...] = ()
    handing_over: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The node's name, for people."""
        return node_name(self.identity)

    def encode(self) -> bytes:
        """Encode as JSON, without the identity: that is in the znode's name."""
        record = {
            "since": self.since,
            "capacity": self.capacity,
            "weight": self.weight,
            "tags": sorted(self.tags),
            "draining": self.draining,
            "frozen": self.frozen,
            "full": self.full,
            **({"notices": list(self.notices)} if self.notices else {}),
            **({"handing_over": list(self.handing_over)} if self.handing_over else {}),
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, identity: str, encoded: bytes) -> NodeInfo:
        """Decode the output of `encode`. Unknown fields are ignored; missing fields get their defaults.

        Raises:
            ValueError, TypeError: it is not a JSON object, or a field has a wrong type. Such a record is refused
                because every node plans with these fields.
        """
        record: Any = json.loads(encoded or b"{}")
        if not isinstance(record, dict):
            raise ValueError(f"a node record must be a JSON object, not {type(record).__name__}")
        capacity = record.get("capacity")
        return cls(
            identity=identity,
            since=float(record.get("since", 0.0)),
            capacity=None if capacity is None else int(capacity),
            weight=float(record.get("weight", 1.0)),
            tags=frozenset(record.get("tags", ())),
            draining=bool(record.get("draining", False)),
            frozen=bool(record.get("frozen", False)),
            full=bool(record.get("full", False)),
            notices=_decode_notices(record.get("notices")),
            handing_over=_decode_handing_over(record.get("handing_over")),
        )


def _decode_notices(stored: object) -> tuple[str, ...]:
    """Return the notices that can be shown. They are only for people, so anything else is dropped."""
    if not isinstance(stored, list):
        return ()
    return tuple(notice[:MAX_NOTICE] for notice in stored[:MAX_NOTICES] if isinstance(notice, str))


def _decode_handing_over(stored: object) -> tuple[str, ...]:
    """Return the tasks that are being handed over. Anything else is dropped: bids for other tasks end in time."""
    if not isinstance(stored, list):
        return ()
    return tuple(task for task in stored[:MAX_HANDING_OVER] if isinstance(task, str) and len(task) <= 128)
