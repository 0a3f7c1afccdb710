"""NodeInfo: what a node tells of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["NodeInfo", "node_name"]


def node_name(identity: str) -> str:
    """The name, for people, within a node's identity `<name>.<mark>`."""
    return identity.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node tells of itself.

    Attributes:
        identity: `<name>.<mark>`, unique for each session.
        since: when the session began, in seconds since the epoch.
        capacity: the most tasks it will hold at once, None for no limit.
        weight: its share relative to other nodes, stored for balancers that heed it; the ones here do not.
        tags: labels for balancers.
        draining: it is leaving; its tasks are for others to bid for.
        frozen: it neither claims, bids nor gives.
        full: it has no room at present, whatever its capacity says.
    """

    identity: str
    since: float = 0.0
    capacity: int | None = None
    weight: float = 1.0
    tags: frozenset[str] = frozenset()
    draining: bool = False
    frozen: bool = False
    full: bool = False

    @property
    def name(self) -> str:
        """The node's name, for people."""
        return node_name(self.identity)

    def encode(self) -> bytes:
        """As JSON, without the identity, which the znode's name carries."""
        record = {
            "since": self.since,
            "capacity": self.capacity,
            "weight": self.weight,
            "tags": sorted(self.tags),
            "draining": self.draining,
            "frozen": self.frozen,
            "full": self.full,
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, identity: str, encoded: bytes) -> NodeInfo:
        """What `encode` wrote; unknown fields are ignored, missing ones have their defaults.

        Raises:
            ValueError, TypeError: it is not a JSON object, or a field is of another kind: every node plans with them.
        """
        record: Any = json.loads(encoded or b"{}")
        if not isinstance(record, dict):
            raise ValueError(f"a node record is a JSON object, not {type(record).__name__}")
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
        )
