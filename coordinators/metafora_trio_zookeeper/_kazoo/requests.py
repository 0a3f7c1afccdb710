"""ZooKeeper's requests as bytes: encoded in the caller's call, decoded where the reply is read.

kazoo supports neither multiRead nor persistent watches, and its transactions need several objects per operation. This
module implements the small part of the protocol (zookeeper.jute) that the coordinator uses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from metafora_trio_zookeeper._connection import (
    Check,
    Create,
    Delete,
    ErrorCode,
    ReadResult,
    RequestError,
    SetData,
    Stat,
    WriteOp,
)

__all__ = [
    "Request",
    "add_watch",
    "children",
    "encode_acl",
    "exists",
    "heartbeat",
    "read",
    "request_error",
    "transact",
]

_CREATE, _DELETE, _EXISTS, _GET_DATA, _SET_DATA, _GET_CHILDREN, _CHECK = 1, 2, 3, 4, 5, 8, 13
_MULTI, _MULTI_READ, _ADD_WATCH, _ERROR = 14, 22, 106, -1
_PERSISTENT_RECURSIVE = 1
_EPHEMERAL, _SEQUENTIAL = 1, 2

_INT = struct.Struct("!i")
_HEADER = struct.Struct("!i?i")
_STAT = struct.Struct("!qqqqiiiqiiq")
_END = _HEADER.pack(-1, True, -1)
_NO_WATCH = b"\0"

_ROLLED_BACK, _RUNTIME_INCONSISTENCY, _NO_NODE = 0, -2, -101
_CODES = {
    _ROLLED_BACK: ErrorCode.ROLLED_BACK,
    _RUNTIME_INCONSISTENCY: ErrorCode.ROLLED_BACK,
    -4: ErrorCode.CONNECTION_LOSS,
    -6: ErrorCode.UNIMPLEMENTED,
    _NO_NODE: ErrorCode.NO_NODE,
    -102: ErrorCode.NO_AUTH,
    -103: ErrorCode.BAD_VERSION,
    -108: ErrorCode.NO_CHILDREN_FOR_EPHEMERALS,
    -110: ErrorCode.NODE_EXISTS,
    -111: ErrorCode.NOT_EMPTY,
    -112: ErrorCode.SESSION_EXPIRED,
}


class Request:
    """One request: `type` and `serialize` are for kazoo's loop, `decode` and `stamp` are for its reply.

    Attributes:
        type: ZooKeeper's operation code.
        decode: takes a frame and the offset of its body, and returns the reply's value; raises RequestError.
        stamp: for a heartbeat, the value of `Connection.proof` once it is acknowledged.
    """

    __slots__ = ("_body", "decode", "stamp", "type")

    def __init__(
        self,
        type: int,
        body: bytes,
        decode: Callable[[bytes, int], Any],
        stamp: float | None = None,
    ) -> None:
        self.type = type
        self._body = body
        self.decode = decode
        self.stamp = stamp

    def serialize(self) -> bytes:
        return self._body

    def set_exception(self, error: Exception) -> None:
        """Do nothing. When kazoo fails a request, it also reports a state, and that fails all outstanding requests."""


def transact(ops: Iterable[WriteOp], acl: bytes) -> Request:
    """Make the request that carries out all of `ops` or none. Every created znode gets `acl` (see `encode_acl`)."""
    return Request(_MULTI, _encode_writes(ops, acl), _decode_writes)


def heartbeat(path: str, stamp: float) -> Request:
    """Make a write that changes nothing, but needs a quorum and the znode at `path`."""
    return Request(_MULTI, _encode_writes((Check(path),), b""), _decode_heartbeat, stamp)


def read(paths: Sequence[str]) -> Request:
    """Make the request that reads many znodes; needs ZooKeeper 3.6."""
    head = _HEADER.pack(_GET_DATA, False, -1)
    body = b"".join(head + _text(path) + _NO_WATCH for path in paths)
    return Request(_MULTI_READ, body + _END, _decode_reads)


def exists(path: str) -> Request:
    return Request(_EXISTS, _text(path) + _NO_WATCH, _decode_stat)


def children(path: str) -> Request:
    return Request(_GET_CHILDREN, _text(path) + _NO_WATCH, _decode_names)


def add_watch(path: str) -> Request:
    """Make the request for a persistent recursive watch; needs ZooKeeper 3.6."""
    return Request(_ADD_WATCH, _text(path) + _INT.pack(_PERSISTENT_RECURSIVE), _decode_nothing)


def encode_acl(acl: Sequence[Any]) -> bytes:
    """Encode a list of kazoo's `ACL` for a create request."""
    entries = (_INT.pack(entry.perms) + _text(entry.id.scheme) + _text(entry.id.id) for entry in acl)
    return _INT.pack(len(acl)) + b"".join(entries)


def request_error(code: int, index: int | None = None) -> RequestError:
    """Translate ZooKeeper's error number into a `RequestError`."""
    known = _CODES.get(code)
    if known is None:
        return RequestError(ErrorCode.OTHER, index, f"ZooKeeper error {code}")
    return RequestError(known, index)


def _text(text: str) -> bytes:
    data = text.encode()
    return _INT.pack(len(data)) + data


def _encode_writes(ops: Iterable[WriteOp], acl: bytes) -> bytes:
    parts: list[bytes] = []
    for op in ops:
        match op:
            case Create():
                flags = _EPHEMERAL * op.ephemeral | _SEQUENTIAL * op.sequential
                parts += (_HEADER.pack(_CREATE, False, -1), _text(op.path), _INT.pack(len(op.data)), op.data)
                parts += (acl, _INT.pack(flags))
            case Delete():
                parts += (_HEADER.pack(_DELETE, False, -1), _text(op.path), _INT.pack(op.version))
            case Check():
                parts += (_HEADER.pack(_CHECK, False, -1), _text(op.path), _INT.pack(op.version))
            case SetData():
                parts += (_HEADER.pack(_SET_DATA, False, -1), _text(op.path), _INT.pack(len(op.data)), op.data)
                parts.append(_INT.pack(op.version))
    parts.append(_END)
    return b"".join(parts)


def _decode_writes(frame: bytes, at: int) -> tuple[str | None, ...]:
    results: list[str | None] = []
    while True:
        kind, end, error = _HEADER.unpack_from(frame, at)
        at += _HEADER.size
        if end:
            return tuple(results)
        if kind == _CREATE:
            path, at = _read_buffer(frame, at)
            results.append(path.decode())
        elif kind == _ERROR:
            # In a failed transaction every operation has an error. Only one of them is the cause: those before it
            # are "rolled back", and those after it "runtime inconsistency".
            if error not in (_ROLLED_BACK, _RUNTIME_INCONSISTENCY):
                raise request_error(error, len(results))
            at += _INT.size
            results.append(None)
        else:
            at += _STAT.size if kind == _SET_DATA else 0
            results.append(None)


def _decode_heartbeat(frame: bytes, at: int) -> None:
    _decode_writes(frame, at)


def _decode_reads(frame: bytes, at: int) -> tuple[ReadResult | RequestError | None, ...]:
    results: list[ReadResult | RequestError | None] = []
    while True:
        kind, end, error = _HEADER.unpack_from(frame, at)
        at += _HEADER.size
        if end:
            return tuple(results)
        if kind == _GET_DATA:
            data, at = _read_buffer(frame, at)
            _, _, _, mtime_ms, version, _, _, owner, _, _, _ = _STAT.unpack_from(frame, at)
            at += _STAT.size
            results.append(ReadResult(data, version, mtime_ms, owner))
        else:  # one znode's refusal says nothing about the others
            at += _INT.size
            results.append(None if error == _NO_NODE else request_error(error))


def _decode_stat(frame: bytes, at: int) -> Stat:
    _, _, _, _, version, _, _, _, size, _, _ = _STAT.unpack_from(frame, at)
    return Stat(version, size)


def _decode_names(frame: bytes, at: int) -> list[str]:
    (count,) = _INT.unpack_from(frame, at)
    at += _INT.size
    names = []
    for _ in range(count):
        name, at = _read_buffer(frame, at)
        names.append(name.decode())
    return names


def _decode_nothing(frame: bytes, at: int) -> None:
    return None


def _read_buffer(frame: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _INT.unpack_from(frame, at)
    at += _INT.size
    if length < 0:
        return b"", at
    return frame[at : at + length], at + length
