"""Task: the unit of work, and the rule for its id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from metafora_trio._errors import InvalidName, InvalidRecord, InvalidTask

from .json_record import parse_object, shorten
from .props import MAX_PROPS_BYTES, encode_props

__all__ = ["Task", "check_node_name", "check_task_id"]

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
        raise InvalidTask(f"task id {shorten(task_id)}: {problem} (rule: {_RULE})")
    assert isinstance(task_id, str)
    return task_id


def check_node_name(name: object) -> str:
    """Return the name, or raise `InvalidName` naming the rule and the offending part."""
    if problem := _name_problem(name):
        raise InvalidName(f"node name {shorten(name)}: {problem} (rule: {_RULE})")
    assert isinstance(name, str)
    return name


@dataclass(frozen=True, slots=True)
class Task:
    """The unit of work: an id and properties, immutable once submitted.

    Args:
        id: 1 to 128 characters of `A-Za-z0-9._:@=+-`, not `.` or `..`.
        props: a JSON object (a mapping with string keys) of at most 512 KiB encoded, with at most 100 levels and with
            integers of at most 64 bits. It is copied. Keep it small, since every owner reads it.

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
        try:
            encoded = encode_props(self.props)
            props = parse_object(encoded, max_bytes=MAX_PROPS_BYTES)
        except InvalidRecord as error:
            raise InvalidTask(f"task {self.id!r}: {error}") from error
        object.__setattr__(self, "props", MappingProxyType(props))
        object.__setattr__(self, "encoded", encoded)
