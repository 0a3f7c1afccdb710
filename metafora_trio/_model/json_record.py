"""JsonRecord: a JSON object from the broker, read within limits.

Anyone may have written what a broker stores: another version, another language, a person. Every decoder therefore turns
any bytes into a value or into `InvalidRecord`, never into another exception. One bad record would otherwise end every
node that reads it. The limits are such that readers in other languages understand a record as this one does.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar, overload

from metafora_trio._errors import InvalidRecord

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "MIN_INTEGER", "JsonRecord", "is_text", "parse_object", "printable", "shorten"]

T = TypeVar("T")

MAX_DEPTH = 100
"""The largest number of objects and lists inside each other. Python's own parser fails at a depth that varies."""
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""The integers that a record may hold: those of 64 bits, signed or not. Many readers cut or refuse larger ones."""
_MOST_DIGITS = 20  # an integer of 64 bits has no more, with its sign

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # one without an end reaches to the end of the record
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape, which may be half of a pair
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def shorten(value: object, most: int = 160) -> str:
    """Return a value as Python writes it, cut to a number of characters, for an error message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an integer of more digits than Python writes, or an object whose repr fails
        return f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_text(value: object, *, least: int = 1, most: int) -> bool:
    """Return whether a value is a string of so many characters that can be stored: without half of a surrogate pair."""
    return isinstance(value, str) and least <= len(value) <= most and not _LONE_SURROGATE.search(value)


def printable(text: str) -> str:
    """Return a text that can be stored and printed: half of a surrogate pair, as in file names, becomes an escape."""
    return text.encode(errors="backslashreplace").decode()


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS or not MIN_INTEGER <= (number := int(text)) <= MAX_INTEGER:
        raise InvalidRecord(f"the integer {shorten(text, 40)[1:-1]} does not fit into 64 bits")
    return number


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidRecord(f"the number {text[:40]} is too large")
    return number


def _constant(text: str) -> None:
    raise InvalidRecord(f"{text} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise InvalidRecord(f"the key {shorten(twice, 80)} is given twice")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
)  # made once: `json.loads` would make one for each call


def _too_deep(encoded: bytes, max_depth: int) -> bool:
    """Return whether too many brackets are open at once. Nearly every text has so few that counting them is enough."""
    if encoded.count(b"[") + encoded.count(b"{") <= max_depth:
        return False
    brackets = _TEXT.sub(b"", encoded).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > max_depth


def parse_object(encoded: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parse a JSON object in UTF-8.

    Args:
        encoded: any bytes.
        max_bytes: the largest size to read.
        max_depth: the largest number of objects and lists inside each other.

    Raises:
        InvalidRecord: it is anything else: too large or too deep, not UTF-8, NaN or infinity, an integer of more than
            64 bits, a key given twice, half of a surrogate pair.
    """
    if len(encoded) > max_bytes:
        raise InvalidRecord(f"it has {len(encoded):,} bytes, more than {max_bytes:,}")
    if _too_deep(encoded, max_depth):
        raise InvalidRecord(f"it is nested deeper than {max_depth} levels")
    try:
        value = _DECODER.decode(encoded.decode())
        if b"\\u" in encoded and _SURROGATE.search(encoded):  # a pair is fine, half of one cannot be encoded again
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"it has half of a surrogate pair: {error.reason}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidRecord(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRecord(f"it is {_kind(value)}, not a JSON object")
    return value


def _kind(value: object) -> str:
    """Return what JSON calls a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"


class JsonRecord:
    """A record read within the limits of `parse_object`, with typed fields.

    Each method returns one field, or the default if the field is missing or null. Fields that nobody asks for are
    ignored, since a newer version may have written them. The methods raise `InvalidRecord` for a
    field of another type, and name it. The constructor raises what `parse_object` raises.

    Args:
        encoded: any bytes.
        max_bytes: the largest size to read.
        max_depth: the largest number of objects and lists inside each other.
    """

    __slots__ = ("_fields",)

    def __init__(self, encoded: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> None:
        self._fields: Mapping[str, Any] = parse_object(encoded, max_bytes=max_bytes, max_depth=max_depth)

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> JsonRecord:
        record = object.__new__(cls)
        record._fields = fields
        return record

    def _get(self, name: str, default: T, types: tuple[type, ...], expected: str) -> Any | T:
        value = self._fields.get(name)
        if value is None:
            return default
        if type(value) not in types:
            raise InvalidRecord(f"{name} is {_kind(value)}, not {expected}")
        return value

    def get(self, name: str) -> Any:
        """Return a field of any type; None by default."""
        return self._fields.get(name)

    def flag(self, name: str) -> bool:
        """Return a boolean; false by default."""
        return bool(self._get(name, False, (bool,), "a boolean"))

    @overload
    def integer(self, name: str) -> int | None: ...

    @overload
    def integer(self, name: str, default: int) -> int: ...

    def integer(self, name: str, default: int | None = None) -> int | None:
        """Return an integer of 64 bits."""
        value: int | None = self._get(name, default, (int,), "an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a finite number, written as an integer or not."""
        return float(self._get(name, default, (int, float), "a number"))

    @overload
    def text(self, name: str) -> str | None: ...

    @overload
    def text(self, name: str, default: str) -> str: ...

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return a string."""
        value: str | None = self._get(name, default, (str,), "a string")
        return value

    def time(self, name: str) -> datetime.datetime | None:
        """Return a date and time with a time zone, in UTC."""
        text = self.text(name)
        if text is None:
            return None
        try:
            time = datetime.datetime.fromisoformat(text)
            if time.tzinfo is not None:
                return time.astimezone(datetime.UTC)
        except (ValueError, OverflowError):
            pass
        raise InvalidRecord(f"{name} is {shorten(text, 80)}, not a date and time with a time zone")

    def values(self, name: str) -> Sequence[Any]:
        """Return a list of anything; empty by default."""
        found: Sequence[Any] = self._get(name, (), (list,), "a list")
        return found

    def texts(self, name: str) -> Sequence[str]:
        """Return a list of strings; empty by default."""
        found = self.values(name)
        for value in found:
            if type(value) is not str:
                raise InvalidRecord(f"{name} has {_kind(value)} in it, and may hold only strings")
        return found

    def records(self, name: str) -> Sequence[JsonRecord]:
        """Return a list of objects; empty by default."""
        found = self.values(name)
        for value in found:
            if type(value) is not dict:
                raise InvalidRecord(f"{name} has {_kind(value)} in it, and may hold only objects")
        return [self._of(fields) for fields in found]

    def fields(self, name: str) -> Mapping[str, Any] | None:
        """Return the fields of an object."""
        found: Mapping[str, Any] | None = self._get(name, None, (dict,), "an object")
        return found
