"""Properties: the JSON object that a task carries, its limits, and its form in the broker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metafora_trio._errors import InvalidRecord, InvalidTask

from .json_record import MAX_DEPTH, MAX_INTEGER, MIN_INTEGER, parse_object, printable, shorten

__all__ = ["MAX_PROPS_BYTES", "decode_props", "encode_props"]

MAX_PROPS_BYTES = 512 * 1024
"""The largest size of a task's properties, in bytes of JSON (half of ZooKeeper's default request limit)."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=dict)  # made once, for speed


def encode_props(props: Mapping[str, Any]) -> bytes:
    """Return properties as compact JSON in UTF-8.

    Raises:
        InvalidRecord: they cannot be stored, or could not be read again; the message names the part and the rule.
    """
    if not isinstance(props, Mapping):
        raise InvalidRecord(f"props is {type(props).__name__}, not a JSON object")
    _check(props, "props", MAX_DEPTH)
    text = _ENCODER.encode(props)
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"props has a lone surrogate: {error}") from error
    if len(encoded) > MAX_PROPS_BYTES:
        raise InvalidRecord(f"props is {len(encoded):,} bytes of JSON, more than {MAX_PROPS_BYTES:,} (512 KiB)")
    return encoded


def _check(value: object, where: str, depth: int) -> None:
    """Check that JSON can represent a value exactly, so that every reader understands it.

    Args:
        value: a part of the properties.
        where: its path, such as `props.urls[2]`.
        depth: the number of levels that may still follow.
    """
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise InvalidRecord(f"{_cut(where)}: the integer does not fit into 64 bits (-2**63 to 2**64 - 1)")
    elif isinstance(value, float):
        if value - value != 0:
            raise InvalidRecord(f"{_cut(where)}: {value} is not JSON")
    elif not isinstance(value, Mapping | list | tuple):
        raise InvalidRecord(f"{_cut(where)}: {type(value).__name__} is not JSON")
    elif not depth:
        raise InvalidRecord(f"{_cut(where)}: nested deeper than {MAX_DEPTH} levels, or it contains itself")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise InvalidRecord(f"{_cut(where)}: key {shorten(key)} is {type(key).__name__}, not a string")
            _check(part, f"{where}.{key}", depth - 1)
    else:
        for index, part in enumerate(value):
            _check(part, f"{where}[{index}]", depth - 1)


def _cut(where: str) -> str:
    return printable(where if len(where) <= 80 else f"{where[:77]}...")


def decode_props(task_id: str, encoded: bytes) -> Mapping[str, Any]:
    """Return the properties of a stored task. An empty record means none.

    Raises:
        InvalidTask: what is stored is anything but properties as `Task` accepts them.
    """
    try:
        return MappingProxyType(parse_object(encoded or b"{}", max_bytes=MAX_PROPS_BYTES))
    except InvalidRecord as error:
        raise InvalidTask(f"task {task_id!r}: stored properties: {error}") from error
