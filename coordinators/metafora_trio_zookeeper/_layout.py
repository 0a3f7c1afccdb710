"""Layout: the paths and names of a namespace's znodes, and the layout record.

    /<namespace>                          {"layout": 2, "buckets": 64, "generation": 217000000}
    /<namespace>/nodes/<node>.<inc>       ephemeral: the node's record
    /<namespace>/tasks/<bucket>/<task>    properties, or a tombstone
    /<namespace>/claims/<bucket>/<task>~<node>.<inc>~<c|b>~<seq>   ephemeral sequential, empty
    /<namespace>/states/<bucket>/<task>   the state record
    /<namespace>/commands/<bucket>/<task>~<seq>   reserved: nothing writes or reads commands to tasks yet
    /<namespace>/node_commands/<node>.<inc>~<seq>

Names are parsed strictly. A claim's path is rebuilt from its fields, so a name that differs in any way from what
`claim_path` writes (fields, bucket, digits) must not become a claim. Otherwise it could never be deleted.

A claim's number (`Claim.seq`, the fencing token) is the namespace's generation in the upper 32 bits, and ZooKeeper's
sequence number in the lower 32. When a namespace is removed and made again, ZooKeeper counts from 0 again, but the
generation is higher, so tokens still grow. The generation is the number of seconds from the beginning of 2020 until the
namespace was made, by the clock of the machine that made it. So tokens may repeat if a namespace is made again within
the same second, or by a machine whose clock is behind. A generation is below 2**31, so a token fits into a signed
64-bit column.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from typing import Any, TypeVar
from zlib import crc32

from metafora_trio import Claim, InvalidTask, LayoutMismatch, TaskState
from metafora_trio.contract import ClaimKind, InvalidRecord, JsonRecord, StoredTask, decode_props

from ._connection import ReadResult

__all__ = [
    "GENERATION_EPOCH",
    "LAST_SEQUENCE",
    "LAYOUT_VERSION",
    "MAX_OPS",
    "MAX_REQUEST_BYTES",
    "MAX_SESSION_BYTES",
    "OPEN",
    "TOMBSTONE",
    "Layout",
    "decode_record",
    "decode_state",
    "describe_acl",
    "is_tombstone",
    "known",
    "sequence_number",
]

T = TypeVar("T")

_log = logging.getLogger("metafora_trio.zookeeper")

LAYOUT_VERSION = 2
GENERATION_EPOCH = 1_577_836_800.0
"""The beginning of 2020, in seconds since 1970."""
OPEN = "open"
"""The description of an ACL that gives everybody all permissions."""
TOMBSTONE = b'{"deleted":true}'
LAST_SEQUENCE = 2**31 - 1
"""The number at which ZooKeeper's counter of a directory's children stays. All further children get it, or a negative
one if they are created in the same instant. It tells no claims apart, so a claim with it is none."""
MAX_OPS = 128
MAX_REQUEST_BYTES = 900_000
"""Below jute.maxbuffer (1 MiB by default): on a larger request a server closes the connection without an error."""
MAX_SESSION_BYTES = 900_000
"""Closing a session writes the paths of all its ephemerals in one transaction. One above about 1 MB crashes every
server, and they cannot start again (ZOOKEEPER-4306)."""
_MAX_RECORD_BYTES = 4096

_WORD = r"[A-Za-z0-9._:@=+-]{1,128}"
_IDENTITY_PATTERN = rf"{_WORD}\.[a-z0-9]{{10}}"
_SEQ_PATTERN = r"([0-9]{10})"
_TASK = re.compile(rf"(?!\.\.?$){_WORD}")
_IDENTITY = re.compile(_IDENTITY_PATTERN)
_CLAIM = re.compile(rf"(?!\.\.?~)({_WORD})~({_IDENTITY_PATTERN})~([cb])~{_SEQ_PATTERN}")
_NODE_COMMAND = re.compile(rf"({_IDENTITY_PATTERN})~{_SEQ_PATTERN}")
_KINDS = {kind.value: kind for kind in ClaimKind}
_AFTER_LAST = re.compile(r".*~-[0-9]+")
_SEQ_BITS = 32
_MAX_GENERATION = 2**31 - 1
_BUCKETED = ("tasks", "claims", "states", "commands")


def check_namespace(namespace: str) -> str:
    """Return the namespace without a trailing slash.

    Raises:
        ValueError: it is not an absolute path of plain names, or is below ZooKeeper's own `/zookeeper`.
    """
    root = namespace.rstrip("/")
    first, *names = root.split("/")
    if first or not names or not all(_TASK.fullmatch(name) for name in names):
        raise ValueError(f"namespace {namespace!r} is not a path such as '/metafora' of plain names (A-Za-z0-9._:@=+-)")
    if names[0] == "zookeeper":
        raise ValueError(f"namespace {namespace!r}: /zookeeper is ZooKeeper's own")
    return root


def decode_record(task: str, stored: ReadResult | None) -> StoredTask | None:
    """Decode a task's znode; None if there is none. A tombstone has no properties, and only it has a version above 0.

    Raises:
        InvalidTask: the properties are not a JSON object.
    """
    if stored is None:
        return None
    if is_tombstone(stored):
        return StoredTask({}, stored.version)
    return StoredTask(decode_props(task, stored.data), encoded=stored.data)


def is_tombstone(stored: ReadResult) -> bool:
    """Return whether a task's znode says that a client has deleted the task.

    The version alone does not say so, because an operator may have set other properties. The data alone do not either,
    because they may be the properties with which the task was submitted.
    """
    return stored.version > 0 and stored.data == TOMBSTONE


def decode_state(task: str, stored: ReadResult | None) -> TaskState | None:
    """Decode a state's znode; None if there is none.

    Raises:
        InvalidTask: it is not a state record.
    """
    if stored is None:
        return None
    try:
        return TaskState.decode(stored.data)
    except InvalidRecord as error:
        raise InvalidTask(f"the stored state of task {task!r} cannot be read: {error}") from error


def known(thing: T | None, directory: str, name: str) -> T | None:
    """Return `thing`, which `name` was parsed to. If it is None, log that the name is ignored."""
    if thing is None:
        _log.warning("ignored %r below %s: not one of our names, or in the wrong bucket", name, directory)
    return thing


def describe_acl(acl: Sequence[Any] | None) -> str:
    """Describe the ACL of new znodes in one word, so that two can be compared. It shows no credentials.

    Args:
        acl: kazoo's ACLs; None for open to the world.
    """
    entries = {(one.perms, one.id.scheme, one.id.id) for one in acl or ()}
    if not entries or entries == {(31, "world", "anyone")}:
        return OPEN
    return "+".join(
        f"{perms}:{scheme}:{hashlib.sha256(id.encode()).hexdigest()[:8]}" for perms, scheme, id in sorted(entries)
    )


def sequence_number(claim: Claim) -> int:
    """Return the number that ZooKeeper has appended to a claim's name."""
    return claim.seq & (1 << _SEQ_BITS) - 1


class Layout:
    """The paths of one namespace.

    Make one for each session and client, because each learns the namespace's generation by itself, in `check_record`.
    That must happen before a claim is parsed.

    Args:
        namespace: an absolute path, such as `/metafora`.
        buckets: the number of directories that tasks are hashed into. A namespace keeps its first number.
        acl: a description of the ACL of all znodes created; see `describe_acl`.

    Attributes:
        generation: the generation of the namespace, 0 until it is known.
        recorded_acl: the description in the namespace's record.
        used_up: the buckets in which a name with a number after the last was parsed. ZooKeeper made it if no other
            number is left, but a person can make such a name, too.

    Raises:
        ValueError: an argument breaks a rule.
    """

    def __init__(self, namespace: str, buckets: int = 64, acl: str = OPEN) -> None:
        if not 1 <= buckets <= 1024:
            raise ValueError(f"buckets is {buckets}; it must be from 1 to 1024")
        self.generation = 0
        self.acl = self.recorded_acl = acl
        self.used_up: set[str] = set()
        self.root = check_namespace(namespace)
        self.buckets = tuple(f"{n:02}" for n in range(buckets))
        self.nodes = f"{self.root}/nodes"
        self.tasks = f"{self.root}/tasks"
        self.claims = f"{self.root}/claims"
        self.states = f"{self.root}/states"
        self.node_commands = f"{self.root}/node_commands"

    # ---- the layout record

    def new_record(self, now: float) -> bytes:
        """Return the data of the root of a namespace that is made now, in seconds since 1970."""
        generation = min(max(0, int(now - GENERATION_EPOCH)), _MAX_GENERATION)
        record: dict[str, object] = {"layout": LAYOUT_VERSION, "buckets": len(self.buckets), "generation": generation}
        if self.acl != OPEN:
            record["acl"] = self.acl
        return json.dumps(record).encode()

    def check_record(self, data: bytes) -> None:
        """Check that the root's data is the record of this layout, and learn the namespace's generation from it.

        Raises:
            LayoutMismatch: the record was made by another version or with another number of buckets, or is no record.
        """
        try:
            record = JsonRecord(data, max_bytes=_MAX_RECORD_BYTES)
            layout, buckets = record.integer("layout", 0), record.integer("buckets", 0)
            generation, acl = record.integer("generation", 0), record.text("acl", OPEN)
        except InvalidRecord as error:
            raise LayoutMismatch(f"{self.root} holds something that is not Metafora's: {data[:80]!r}") from error
        if layout < 1 or buckets < 1 or not 0 <= generation <= _MAX_GENERATION:
            raise LayoutMismatch(f"{self.root} holds something that is not Metafora's: {data[:80]!r}")
        if layout != LAYOUT_VERSION:
            age = "a newer" if layout > LAYOUT_VERSION else "an older"
            raise LayoutMismatch(
                f"{self.root} has layout {layout}, made by {age} version of metafora-trio; this one uses layout "
                f"{LAYOUT_VERSION}: choose another namespace, or use that version"
            )
        if buckets != len(self.buckets):
            raise LayoutMismatch(f"{self.root} was made with buckets={buckets}, not with buckets={len(self.buckets)}")
        self.generation, self.recorded_acl = generation, acl

    def check_acl(self) -> None:
        """Check, for a node, that it creates its znodes with the ACL with which the namespace was made.

        A server sends no events of what may not be read. So nodes that cannot read this one's znodes would not see its
        claims, and each would believe that it owns the same tasks.

        Raises:
            LayoutMismatch: it does not.
        """
        if self.acl != self.recorded_acl:
            raise LayoutMismatch(
                f"{self.root} was made with the ACL {self.recorded_acl}, not with {self.acl}: give all nodes and "
                "clients the same, or choose another namespace"
            )

    def directories(self) -> list[str]:
        """Every directory below the root, parents first."""
        top = [f"{self.root}/{name}" for name in ("nodes", *_BUCKETED, "node_commands")]
        return top + [f"{self.root}/{name}/{bucket}" for name in _BUCKETED for bucket in self.buckets]

    # ---- from things to paths

    def bucket(self, task: str) -> str:
        """The directory a task's znodes hash into."""
        return self.buckets[crc32(task.encode()) % len(self.buckets)]

    def node_path(self, identity: str) -> str:
        return f"{self.nodes}/{identity}"

    def task_path(self, task: str) -> str:
        return f"{self.tasks}/{self.bucket(task)}/{task}"

    def state_path(self, task: str) -> str:
        return f"{self.states}/{self.bucket(task)}/{task}"

    def claim_path(self, claim: Claim) -> str:
        return f"{self.claim_prefix(claim.task, claim.node, claim.kind)}{sequence_number(claim):010}"

    def claim_prefix(self, task: str, identity: str, kind: ClaimKind) -> str:
        """The path to create: ZooKeeper appends the sequence number."""
        return f"{self.claims}/{self.bucket(task)}/{task}~{identity}~{kind.value}~"

    def claim_size(self, task: str, identity: str) -> int:
        """The bytes that a claim adds to the transaction that closes its session."""
        return len(self.claims) + len(self.buckets[-1]) + len(task) + len(identity) + 20

    def node_command_path(self, name: str) -> str:
        return f"{self.node_commands}/{name}"

    def node_command_prefix(self, identity: str) -> str:
        return f"{self.node_commands}/{identity}~"

    # ---- from names to things; None for a name that is not exactly one of ours

    def parse_task(self, bucket: str, name: str) -> str | None:
        return name if _TASK.fullmatch(name) and self.bucket(name) == bucket else None

    def parse_claim(self, bucket: str, name: str) -> Claim | None:
        match = _CLAIM.fullmatch(name)
        if match is None:
            if _AFTER_LAST.fullmatch(name):
                self.used_up.add(bucket)
            return None
        task, node, kind, digits = match.groups()
        if self.bucket(task) != bucket:
            return None
        if (number := int(digits)) >= LAST_SEQUENCE:
            if number == LAST_SEQUENCE:
                self.used_up.add(bucket)
            return None
        return Claim(self.generation << _SEQ_BITS | number, task, node, _KINDS[kind])

    def parse_node(self, name: str) -> str | None:
        return name if _IDENTITY.fullmatch(name) else None

    def parse_node_command(self, name: str) -> tuple[str, int] | None:
        """Return a command's addressee and its sequence number."""
        match = _NODE_COMMAND.fullmatch(name)
        return (match[1], int(match[2])) if match else None
