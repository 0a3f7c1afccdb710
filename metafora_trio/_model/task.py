"""Task: the unit of work, and the rules for its id and properties."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from metafora_trio._errors import InvalidName, InvalidTask

__all__ = ["MAX_PROPS_BYTES", "Task", "check_node_name", "check_task_id", "decode_props"]

MAX_PROPS_BYTES = 512 * 1024
"""The largest size of a task's properties, in bytes of JSON (half of ZooKeeper's default request limit)."""

_NAME = re.compile(r"[A-Za-z0-9._:@=+-]{1,128}")
_BAD_CHARACTER = re.compile(r"[^A-Za-z0-9._:@=+-]")
_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : @ = + -, and not '.' or '..'"


def _name_problem(name: object) -> str | None:
    """Return what is wrong with a name, or None. Tasks and nodes obey one rule, so paths need no encoding."""
    if not isinstance(name, str):
        return f"it is {type(name).__name__}, not a string"
    if _NAME.fullmatch(name) and name not in (".", ".."):
        return None
    if not name:
        return "it is empty"
    if bad := _BAD_CHARACTER.search(name):
        return f"character {bad.group()!r} at position {bad.start()} is not allowed"
    if name in (".", ".."):
        return f"{name!r} is not allowed"
    return f"it has {len(name)} characters"


def check_task_id(task_id: object) -> str:
    """Return the id, or raise `InvalidTask` naming the rule and the offending part."""
    if problem := _name_problem(task_id):
        raise InvalidTask(f"task id {_shorten(task_id)}: {problem} (rule: {_RULE})")
    assert isinstance(task_id, str)
    return task_id


def check_node_name(name: object) -> str:
    """Return the name, or raise `InvalidName` naming the rule and the offending part."""
    if problem := _name_problem(name):
        raise InvalidName(f"node name {_shorten(name)}: {problem} (rule: {_RULE})")
    assert isinstance(name, str)
    return name


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _first_bad_part(value: object, where: str) -> str | None:
    """Return the path and type of the first part that JSON cannot represent exactly, such as `props.urls[2]: set`."""
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if value - value == 0 else f"{where}: {value} is not JSON"
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                return f"{where}: key {key!r} is {type(key).__name__}, not a string"
            if bad := _first_bad_part(part, f"{where}.{key}"):
                return bad
        return None
    if isinstance(value, list | tuple):
        for index, part in enumerate(value):
            if bad := _first_bad_part(part, f"{where}[{index}]"):
                return bad
        return None
    return f"{where}: {type(value).__name__} is not JSON"


@dataclass(frozen=True, slots=True)
class Task:
    """The unit of work: an id and properties, immutable once submitted.

    Args:
        id: 1 to 128 characters of `A-Za-z0-9._:@=+-`, not `.` or `..`.
        props: a JSON object (a mapping with string keys) of at most 512 KiB encoded. It is copied. Keep it small,
            since every owner reads it.

    Attributes:
        encoded: the properties as compact JSON in UTF-8.

    Raises:
        InvalidTask: an argument breaks a rule; the message names the task, the rule and the offending part.
    """

    id: str
    props: Mapping[str, Any] = field(default_factory=dict, hash=False)
    encoded: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_task_id(self.id)
        if not isinstance(self.props, Mapping):
            raise InvalidTask(f"task {self.id!r}: props is {type(self.props).__name__}, not a JSON object")
        try:
            if bad := _first_bad_part(self.props, "props"):
                raise InvalidTask(f"task {self.id!r}: {_shorten(bad)[1:-1]}")
            text = json.dumps(self.props, ensure_ascii=False, separators=(",", ":"), default=dict)
        except RecursionError:
            raise InvalidTask(f"task {self.id!r}: props is nested too deeply, or contains itself") from None
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidTask(f"task {self.id!r}: props has a lone surrogate: {error}") from error
        if len(encoded) > MAX_PROPS_BYTES:
            raise InvalidTask(
                f"task {self.id!r}: props is {len(encoded):,} bytes of JSON, more than {MAX_PROPS_BYTES:,} (512 KiB)"
            )
        object.__setattr__(self, "props", MappingProxyType(json.loads(encoded)))
        object.__setattr__(self, "encoded", encoded)


def decode_props(task_id: str, encoded: bytes) -> Mapping[str, Any]:
    """Return the properties of a stored task. Raises `InvalidTask` if they are not a JSON object."""
    try:
        props = json.loads(encoded or b"{}")
    except ValueError as error:
        raise InvalidTask(f"task {task_id!r}: stored properties are not JSON: {error}") from error
    if not isinstance(props, dict):
        raise InvalidTask(f"task {task_id!r}: stored properties are {type(props).__name__}, not a JSON object")
    return MappingProxyType(props)
