"""Task: an id or properties that break a rule are refused. The message names the rule and the place."""

from __future__ import annotations

import datetime
import enum
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metafora_trio as mt
from metafora_trio._model.props import MAX_PROPS_BYTES, decode_props
from metafora_trio._model.task import check_node_name, check_task_id

RULE = "rule: 1 to 128 characters of A-Z a-z 0-9 . _ : @ = + -, and not '.' or '..'"
ALPHABET = string.ascii_letters + string.digits + "._:@=+-"

names = st.text(ALPHABET, min_size=1, max_size=128).filter(lambda name: name not in (".", ".."))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)


@given(names)
def test_good_names(name: str) -> None:
    assert mt.Task(name).id == name
    assert check_node_name(name) == name


@given(st.text(min_size=1, max_size=3).filter(lambda text: not set(text) <= set(ALPHABET)))
def test_any_other_character_is_refused(name: str) -> None:
    with pytest.raises(mt.InvalidTask, match="is not allowed"):
        mt.Task(name)


@pytest.mark.parametrize(
    "name, problem",
    [
        ("", "task id '': it is empty"),
        (".", "task id '.': '.' is not allowed"),
        ("..", "task id '..': '..' is not allowed"),
        ("a/b", "task id 'a/b': character '/' at position 1 is not allowed"),
        ("task~1", "task id 'task~1': character '~' at position 4 is not allowed"),
        ("grüße", "task id 'grüße': character 'ü' at position 2 is not allowed"),
        ("newline\n", r"task id 'newline\n': character '\n' at position 7 is not allowed"),
        ("x" * 129, f"task id '{'x' * 129}': it has 129 characters"),
        ("x" * 200, f"task id '{'x' * 156}...: it has 200 characters"),
        (7, "task id 7: it is int, not a string"),
        (None, "task id None: it is NoneType, not a string"),
    ],
)
def test_bad_ids(name: Any, problem: str) -> None:
    with pytest.raises(mt.InvalidTask) as raised:
        mt.Task(name)
    assert str(raised.value) == f"{problem} ({RULE})"
    assert isinstance(raised.value, ValueError)
    with pytest.raises(mt.InvalidTask):
        check_task_id(name)


def test_node_names_follow_the_same_rule() -> None:
    with pytest.raises(mt.InvalidName, match="node name 'a~b': character '~' at position 1 is not allowed"):
        check_node_name("a~b")


# ---- properties


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_json_object_is_kept(props: dict[str, Any]) -> None:
    task = mt.Task("t", props)
    assert task.props == props
    assert decode_props("t", task.encoded) == props
    assert json.loads(task.encoded) == props


def test_props_are_copied_and_frozen() -> None:
    inner = [1, 2]
    task = mt.Task("t", {"list": inner})
    inner.append(3)
    assert task.props == {"list": [1, 2]}
    with pytest.raises(TypeError):
        task.props["new"] = 1  # type: ignore[index] # read-only, as the test shows
    with pytest.raises(AttributeError):
        task.id = "u"  # type: ignore[misc] # read-only, as the test shows


def test_tasks_compare_by_value() -> None:
    assert mt.Task("t", {"a": 1}) == mt.Task("t", {"a": 1})
    assert mt.Task("t", {"a": 1}) != mt.Task("t", {"a": 2})
    assert len({mt.Task("t", {"a": 1}), mt.Task("t", {"a": 1})}) == 1


def test_nested_mappings_and_tuples_become_json() -> None:
    assert mt.Task("t", {"a": mt.Task("u", {"b": (1, 2)}).props}).props == {"a": {"b": [1, 2]}}


def nested(levels: int) -> list[Any]:
    """Return lists inside each other."""
    inner: list[Any] = []
    for _ in range(levels - 1):
        inner = [inner]
    return inner


CONTAINS_ITSELF: dict[str, Any] = {}
CONTAINS_ITSELF["me"] = CONTAINS_ITSELF


@pytest.mark.parametrize(
    "props, problem",
    [
        ([], "props is list, not a JSON object"),
        (None, "props is NoneType, not a JSON object"),
        ({"urls": ["a", "b", {"c"}]}, "props.urls[2]: set is not JSON"),
        ({"when": datetime.date(2024, 1, 1)}, "props.when: date is not JSON"),
        ({"a": {"b": (1, b"x")}}, "props.a.b[1]: bytes is not JSON"),
        ({"a": float("nan")}, "props.a: nan is not JSON"),
        ({"a": [float("-inf")]}, "props.a[0]: -inf is not JSON"),
        ({"a": {1: 2}}, "props.a: key 1 is int, not a string"),
        ({10**5000: 2}, "props: key <int> is int, not a string"),
        ({"a": [2**64]}, "props.a[0]: the integer does not fit into 64 bits (-2**63 to 2**64 - 1)"),
        ({"a": -(2**63) - 1}, "props.a: the integer does not fit into 64 bits (-2**63 to 2**64 - 1)"),
        ({"a": 10**5000}, "props.a: the integer does not fit into 64 bits (-2**63 to 2**64 - 1)"),
        ({"a": nested(100)}, "props.a" + "[0]" * 23 + "[...: nested deeper than 100 levels, or it contains itself"),
        (CONTAINS_ITSELF, f"props{'.me' * 24}...: nested deeper than 100 levels, or it contains itself"),
        ({"a": "x" * MAX_PROPS_BYTES}, "props is 524,296 bytes of JSON, more than 524,288 (512 KiB)"),
        ({"a": "ü" * (MAX_PROPS_BYTES // 2)}, "props is 524,296 bytes of JSON, more than 524,288 (512 KiB)"),
    ],
)
def test_bad_props(props: Any, problem: str) -> None:
    with pytest.raises(mt.InvalidTask) as raised:
        mt.Task("t", props)
    assert str(raised.value) == f"task 't': {problem}"


def test_a_message_can_be_printed() -> None:
    with pytest.raises(mt.InvalidTask) as raised:
        mt.Task("t", {"\ud800": {1, 2}})
    assert str(raised.value) == "task 't': props.\\ud800: set is not JSON"


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(mt.InvalidTask, match="task 't': props has a lone surrogate"):
        mt.Task("t", {"a": "\ud800"})


def test_deepest_props() -> None:
    """The 100th level is accepted, and can be read again at the same depth of the stack."""
    task = mt.Task("t", {"a": nested(99)})
    assert decode_props("t", task.encoded) == task.props


class Number(enum.IntEnum):
    ONE = 1


def test_numbers_of_other_classes() -> None:
    assert mt.Task("t", {"a": Number.ONE, "b": True}).encoded == b'{"a":1,"b":true}'


class Repeating(dict[str, int]):
    """A mapping that names a key twice."""

    def items(self) -> Any:
        return [("a", 1), ("a", 2)]


def test_a_mapping_that_could_not_be_read_again_is_refused() -> None:
    with pytest.raises(mt.InvalidTask, match="task 't': the key 'a' is given twice"):
        mt.Task("t", {"a": Repeating(a=1)})


def test_largest_props() -> None:
    assert len(mt.Task("t", {"a": "x" * (MAX_PROPS_BYTES - 8)}).encoded) == MAX_PROPS_BYTES


@pytest.mark.parametrize(
    "stored, problem",
    [
        (b"{", "task 't': stored properties: it is not JSON"),
        (b"\xff", "task 't': stored properties: it is not JSON"),
        (b"[1]", "task 't': stored properties: it is a list, not a JSON object"),
        (b'{"a":' + b"[" * 2000, "task 't': stored properties: it is nested deeper than 100 levels"),
        (b'{"a":"' + b"x" * MAX_PROPS_BYTES, "task 't': stored properties: it has 524,294 bytes, more than 524,288"),
    ],
)
def test_invalid_stored_props_are_refused(stored: bytes, problem: str) -> None:
    with pytest.raises(mt.InvalidTask, match=problem):
        decode_props("t", stored)


def test_empty_record_means_no_props() -> None:
    assert decode_props("t", b"") == {}
