"""JsonRecord: any bytes become a value or `InvalidRecord`, within limits that do not depend on Python's own."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio._model.json_record import MAX_DEPTH, is_text, parse_object, printable, shorten
from metafora_trio.contract import InvalidRecord, JsonRecord


def read(text: str) -> JsonRecord:
    return JsonRecord(text.encode(), max_bytes=10_000)


@pytest.mark.parametrize(
    "stored, problem",
    [
        (b"", "it is not JSON: Expecting value"),
        (b"null", "it is null, not a JSON object"),
        (b"true", "it is a boolean, not"),
        (b"1", "it is a number, not"),
        (b'"x"', "it is a string, not"),
        (b"[]", "it is a list, not"),
        (b"{} {}", "it is not JSON: Extra data"),
        (b'{"a": "\xff"}', "it is not JSON: 'utf-8' codec can't decode byte 0xff"),
        ('{"a": 1}'.encode("utf-16"), "it is not JSON: 'utf-8' codec"),
        (b'{"a": "\xed\xa0\x80"}', "it is not JSON: 'utf-8' codec"),
        (b'{"a": "\\ud800"}', "it has half of a surrogate pair"),
        (b'{"a": ["\\uDFFF"]}', "it has half of a surrogate pair"),
        (b'{"\\ud800": 1}', "it has half of a surrogate pair"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": 18446744073709551616}', "the integer 18446744073709551616 does not fit into 64 bits"),
        (b'{"a": -9223372036854775809}', "the integer -9223372036854775809 does not fit into 64 bits"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "the integer 10000.* does not fit into 64 bits"),
        (b'{"b": {"a": 1, "c": 2, "a": 3}}', "the key 'a' is given twice"),
        (b" " * 9_999 + b"{}", "it has 10,001 bytes, more than 10,000"),
    ],
)
def test_refused(stored: bytes, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=problem):
        parse_object(stored, max_bytes=10_000)


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"a": "\\ud83d\\ude00 \\\\ud800"}', {"a": "\U0001f600 \\ud800"}),
        ('{"a": [18446744073709551615, -9223372036854775808]}', {"a": [2**64 - 1, -(2**63)]}),
        ('{"a": "' + "[{" * 500 + '\\""}', {"a": "[{" * 500 + '"'}),
        ('{"a": [' + "[]," * 500 + "{}]}", {"a": [[]] * 500 + [{}]}),
    ],
)
def test_accepted(text: str, value: object) -> None:
    assert parse_object(text.encode(), max_bytes=10_000) == value


def deep(levels: int, *, text: bytes = b"") -> bytes:
    """Return an object with lists inside each other: so many levels in all."""
    return b'{"a":' + text + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_the_deepest_record() -> None:
    assert parse_object(deep(MAX_DEPTH), max_bytes=10_000)
    with pytest.raises(InvalidRecord, match="it is nested deeper than 100 levels"):
        parse_object(deep(MAX_DEPTH + 1), max_bytes=10_000)


@pytest.mark.parametrize(
    "stored",
    [
        deep(100_000),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        deep(100_000, text=b'"an open text, '),
        deep(100_000, text=b'"\\""'),
        b'"\\' * 100_000,
        b'{"a":"' + b'\\"' * 100_000 + b"[" * 100_000,
    ],
)
def test_depth_is_checked_before_parsing(stored: bytes) -> None:
    """Python's parser never sees more levels than the limit. It would raise RecursionError."""
    with pytest.raises(InvalidRecord):
        parse_object(stored, max_bytes=10_000_000)


@given(st.lists(st.sampled_from(['"', "\\", "[", "]", "{", "}", "a", ",", ":", "1"]), max_size=400).map("".join))
def test_brackets_in_texts_do_not_count(text: str) -> None:
    """Any text at all may stand in a record."""
    encoded = json.dumps({"a": text}).encode()
    assert parse_object(encoded, max_bytes=10_000, max_depth=1) == {"a": text}


def test_fields() -> None:
    record = read(
        '{"flag": true, "int": 7, "number": 1.5, "text": "x", "time": "2024-05-01T14:00:00+02:00", '
        '"texts": ["a", "b"], "records": [{"n": 1}], "fields": {"a": [1]}}'
    )
    assert (record.flag("flag"), record.integer("int"), record.integer("int", 8)) == (True, 7, 7)
    assert (record.number("int", 0.0), record.number("number", 0.0), record.text("text")) == (7.0, 1.5, "x")
    noon = record.time("time")
    assert noon is not None
    assert noon == datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    assert noon.tzinfo is datetime.UTC
    assert record.texts("texts") == ["a", "b"]
    assert [entry.integer("n") for entry in record.records("records")] == [1]
    assert record.fields("fields") == {"a": [1]}
    assert (record.get("fields"), record.get("missing")) == ({"a": [1]}, None)


@pytest.mark.parametrize("text", ["{}", '{"a": null}'])
def test_missing_fields(text: str) -> None:
    """A field that is null is a missing one: some languages write an empty list so."""
    record = read(text)
    assert (record.flag("a"), record.integer("a"), record.integer("a", 3), record.number("a", 1.5)) == (
        False,
        None,
        3,
        1.5,
    )
    assert (record.text("a"), record.text("a", "x"), record.time("a"), record.fields("a")) == (None, "x", None, None)
    assert (list(record.texts("a")), list(record.records("a"))) == ([], [])


@pytest.mark.parametrize(
    "method, value, problem",
    [
        ("flag", "0", "a is a number, not a boolean"),
        ("integer", "true", "a is a boolean, not an integer"),
        ("integer", "1.0", "a is a number, not an integer"),
        ("text", "[]", "a is a list, not a string"),
        ("time", "7", "a is a number, not a string"),
        ("time", '"noon"', "a is 'noon', not a date and time with a time zone"),
        ("time", '"2024-05-01T12:00:00"', "a is '2024-05-01T12:00:00', not a date and time with a time zone"),
        ("time", '"0001-01-01T00:00:00+01:00"', "not a date and time with a time zone"),
        ("texts", '["x", null]', "a has null in it, and may hold only strings"),
        ("records", "[{}, []]", "a has a list in it, and may hold only objects"),
        ("records", "{}", "a is an object, not a list"),
        ("fields", "[]", "a is a list, not an object"),
    ],
)
def test_wrong_types(method: str, value: str, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=problem):
        getattr(read(f'{{"a": {value}}}'), method)("a")


@pytest.mark.parametrize(
    "value, expected",
    [("x", True), ("", False), ("xxx", True), ("xxxx", False), (7, False), ("a\ud800", False), ("\U0001f600", True)],
)
def test_texts_that_can_be_stored(value: Any, expected: bool) -> None:
    assert is_text(value, most=3) is expected


def test_messages_can_be_printed() -> None:
    assert printable("caf\xe9 \udce9") == "caf\xe9 \\udce9"
    assert (shorten("x" * 200, 10), shorten(10**5000)) == ("'xxxxxx...", "<int>")
