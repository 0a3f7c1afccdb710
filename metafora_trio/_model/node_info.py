"""NodeInfo: the record that a node announces about itself."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from metafora_trio._errors import InvalidRecord

from .json_record import JsonRecord, is_text, shorten

__all__ = [
    "MAX_HANDING_OVER",
    "MAX_LOSING",
    "MAX_NOTICE",
    "MAX_NOTICES",
    "MAX_TAG",
    "MAX_TAGS",
    "NodeInfo",
    "checksums",
    "node_name",
]

MAX_TAGS = 64
"""The largest number of tags of a node."""
MAX_TAG = 64
"""The largest number of characters of one tag."""

MAX_NOTICES = 8
"""The largest number of notices in a record. Every node reads every record, so it must stay small."""
MAX_NOTICE = 200
"""The largest number of characters of one notice."""
MAX_HANDING_OVER = 256
"""The largest number of tasks in a record's `handing_over`."""
_CHECKSUM = 4
"""The bytes of a checksum."""
MAX_LOSING = 16
"""The largest number of names in a record's `losing`."""
_MAX_BYTES = 128 * 1024
_MAX_CAPACITY = 2**63 - 1
_MAX_WEIGHT = 1e9
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.0  # the years 1 and 9999, in seconds since the epoch


def node_name(identity: str) -> str:
    """Return the name in a node's identity `<name>.<mark>`. A name is for people and need not be unique."""
    return identity.rpartition(".")[0]


def checksums(tasks: Iterable[str]) -> frozenset[int]:
    """Return the CRC-32 of each task's id, which is how `NodeInfo.handing_over` names tasks."""
    return frozenset(zlib.crc32(task.encode()) for task in tasks)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The record that a node announces about itself.

    Attributes:
        identity: `<name>.<mark>`, unique for each session.
        since: when the session began, in seconds since the epoch.
        capacity: the maximum number of tasks it holds at once, None for no limit.
        weight: its share relative to other nodes, 0 to 10**9. Stored for custom balancers; the built-in ones ignore it.
        tags: labels for balancers: at most `MAX_TAGS`, of 1 to `MAX_TAG` characters.
        draining: the node is leaving, and other nodes may bid for its tasks.
        frozen: the node claims nothing, bids for nothing and hands nothing over.
        full: the node can hold no more claims at present, whatever its capacity says.
        notices: what people should know about the node, such as a task that it cannot read: at most `MAX_NOTICES`
            lines of at most `MAX_NOTICE` characters. No node decides anything by them.
        handing_over: the CRC-32 checksums of the tasks that it has been stopping on behalf of other nodes for some
            seconds, at most `MAX_HANDING_OVER`; see `hands_over`. Ids would be too long for a record that every node
            reads. If two tasks have the same checksum, a bid is kept for longer than needed.
        losing: the names of nodes that keep losing their sessions, each with the number of losses in a row: at most
            `MAX_LOSING`, for a node that joins and cannot have seen it. Only the oldest node announces them.

    Raises:
        InvalidRecord: a field breaks a rule; the message names both. Every node plans with these fields.
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
    handing_over: frozenset[int] = frozenset()
    losing: frozenset[tuple[str, int]] = frozenset()

    def __post_init__(self) -> None:
        if not (_is_number(self.since) and _FIRST <= self.since <= _LAST):
            raise InvalidRecord(
                f"since must be seconds since the epoch, up to the year 9999, not {shorten(self.since)}"
            )
        if self.capacity is not None and not (type(self.capacity) is int and 0 <= self.capacity <= _MAX_CAPACITY):
            raise InvalidRecord(
                f"capacity must be 0 or more (an integer below 2**63), or None, not {shorten(self.capacity)}"
            )
        if not (_is_number(self.weight) and 0 <= self.weight <= _MAX_WEIGHT):
            raise InvalidRecord(f"weight must be a number from 0 to {_MAX_WEIGHT:,.0f}, not {shorten(self.weight)}")
        if len(self.tags) > MAX_TAGS:
            raise InvalidRecord(f"tags must be at most {MAX_TAGS}, not {len(self.tags)}")
        for tag in self.tags:
            if not is_text(tag, most=MAX_TAG):
                raise InvalidRecord(f"a tag must be a string of 1 to {MAX_TAG} characters, not {shorten(tag)}")
        if len(self.notices) > MAX_NOTICES or not all(is_text(it, least=0, most=MAX_NOTICE) for it in self.notices):
            raise InvalidRecord(f"notices must be at most {MAX_NOTICES} strings of at most {MAX_NOTICE} characters")

    @property
    def name(self) -> str:
        """The node's name, for people."""
        return node_name(self.identity)

    def hands_over(self, task: str) -> bool:
        """Return whether it has been stopping the task on behalf of another node for some seconds.

        That node keeps its bid until the task has stopped."""
        return bool(self.handing_over) and zlib.crc32(task.encode()) in self.handing_over

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
            **({"handing_over": _encode_handing_over(self.handing_over)} if self.handing_over else {}),
            **({"losing": dict(sorted(self.losing))} if self.losing else {}),
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, identity: str, encoded: bytes) -> NodeInfo:
        """Decode the output of `encode`. Unknown fields are ignored; missing fields get their defaults.

        Raises:
            InvalidRecord: it is not a JSON object, or a field has a wrong type or breaks a rule.
        """
        record = JsonRecord(encoded or b"{}", max_bytes=_MAX_BYTES)
        return cls(
            identity=identity,
            since=record.number("since", 0.0),
            capacity=record.integer("capacity"),
            weight=record.number("weight", 1.0),
            tags=frozenset(record.texts("tags")),
            draining=record.flag("draining"),
            frozen=record.flag("frozen"),
            full=record.flag("full"),
            notices=_decode_notices(record.get("notices")),
            handing_over=_decode_handing_over(record.get("handing_over")),
            losing=_decode_losing(record.get("losing")),
        )

    @classmethod
    def unreadable(cls, identity: str, error: Exception) -> NodeInfo:
        """Return a stand-in for a node whose record cannot be read. It keeps its tasks, gets no more, and says why."""
        return cls(identity, full=True, notices=(f"its record cannot be read: {error}"[:MAX_NOTICE],))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decode_notices(stored: object) -> tuple[str, ...]:
    """Return the notices that can be shown. They are only for people, so anything else is dropped."""
    if not isinstance(stored, list):
        return ()
    return tuple(notice[:MAX_NOTICE] for notice in stored[:MAX_NOTICES] if isinstance(notice, str))


def _encode_handing_over(checksums: Iterable[int]) -> str:
    packed = b"".join(checksum.to_bytes(_CHECKSUM, "big") for checksum in sorted(checksums))
    return base64.b64encode(packed).decode()


def _decode_handing_over(stored: object) -> frozenset[int]:
    """Return the checksums of the tasks that are being handed over. If they cannot be read, bids for them time out."""
    try:
        packed = base64.b64decode(stored, validate=True) if isinstance(stored, str) else b""
    except ValueError:
        return frozenset()
    ends = range(_CHECKSUM, min(len(packed), MAX_HANDING_OVER * _CHECKSUM) + 1, _CHECKSUM)
    return frozenset(int.from_bytes(packed[end - _CHECKSUM : end], "big") for end in ends)


def _decode_losing(stored: object) -> frozenset[tuple[str, int]]:
    """Return the names with their losses that can be read. For the others it is as if nobody had announced them."""
    if not isinstance(stored, dict):
        return frozenset()
    entries = [(name, losses) for name, losses in stored.items() if type(losses) is int and losses > 0]
    return frozenset(entries[:MAX_LOSING])
