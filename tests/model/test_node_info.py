"""NodeInfo: a round trip keeps it, and a record that other nodes could not plan with is refused, in both directions."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import NodeInfo
from metafora_trio._model.node_info import (
    MAX_HANDING_OVER,
    MAX_LOSING,
    MAX_NOTICE,
    MAX_NOTICES,
    MAX_TAG,
    MAX_TAGS,
    checksums,
    node_name,
)
from metafora_trio.contract import InvalidRecord

TOO_MANY = b"".join(number.to_bytes(4, "big") for number in range(MAX_HANDING_OVER + 1))

nodes = st.builds(
    NodeInfo,
    st.just("a.1"),
    since=st.floats(0, 1e10),
    capacity=st.none() | st.integers(0, 2**63 - 1),
    weight=st.floats(0, 1e9),
    tags=st.frozensets(st.text(min_size=1, max_size=MAX_TAG), max_size=MAX_TAGS),
    draining=st.booleans(),
    frozen=st.booleans(),
    full=st.booleans(),
    notices=st.lists(st.text(max_size=MAX_NOTICE), max_size=MAX_NOTICES).map(tuple),
    handing_over=st.frozensets(st.integers(0, 2**32 - 1), max_size=MAX_HANDING_OVER),
    losing=st.dictionaries(st.text("ab-1", min_size=1), st.integers(1, 99), max_size=MAX_LOSING).map(
        lambda losing: frozenset(losing.items())
    ),
)


@given(nodes)
def test_node_round_trip(node: NodeInfo) -> None:
    assert NodeInfo.decode("a.1", node.encode()) == node


@pytest.mark.parametrize("stored", [b"", b"{}", b'{"unknown": 1}'])
def test_node_defaults(stored: bytes) -> None:
    assert NodeInfo.decode("a.1", stored) == NodeInfo("a.1")


@pytest.mark.parametrize(
    "stored, problem",
    [
        (b"[]", "it is a list, not a JSON object"),
        (b"{", "it is not JSON"),
        (b'{"capacity": "many"}', "capacity is a string, not an integer"),
        (b'{"capacity": 1.5}', "capacity is a number, not an integer"),
        (b'{"capacity": 1e999}', "the number 1e999 is too large"),
        (b'{"capacity": NaN}', "NaN is not JSON"),
        (b'{"capacity": -1}', r"capacity must be 0 or more \(an integer below 2\*\*63\), or None, not -1"),
        (b'{"capacity": 9223372036854775808}', "capacity must be 0 or more"),
        (b'{"since": true}', "since is a boolean, not a number"),
        (b'{"since": 1e300}', "since must be seconds since the epoch, up to the year 9999, not 1e\\+300"),
        (b'{"weight": -0.1}', "weight must be a number from 0 to 1,000,000,000, not -0.1"),
        (b'{"weight": 1e10}', "weight must be a number from 0 to 1,000,000,000"),
        (b'{"tags": 1}', "tags is a number, not a list"),
        (b'{"tags": "gpu"}', "tags is a string, not a list"),
        (b'{"tags": ["gpu", ["a"]]}', "tags has a list in it, and may hold only strings"),
        (b'{"tags": [""]}', "a tag must be a string of 1 to 64 characters, not ''"),
        (b'{"tags": ["' + b"x" * 65 + b'"]}', "a tag must be a string of 1 to 64 characters"),
        (b'{"tags": [' + b",".join(b'"%d"' % n for n in range(65)) + b"]}", "tags must be at most 64, not 65"),
        (b'{"frozen": 1}', "frozen is a number, not a boolean"),
        (b'{"x": "' + b"x" * 131_072 + b'"}', "it has 131,081 bytes, more than 131,072"),
    ],
)
def test_not_a_node(stored: bytes, problem: str) -> None:
    """An invalid record is refused when it is decoded. Otherwise it could end every node that plans with it."""
    with pytest.raises(InvalidRecord, match=problem):
        NodeInfo.decode("a.1", stored)


@pytest.mark.parametrize(
    "fields",
    [
        {"since": float("nan")},
        {"since": True},
        {"capacity": True},
        {"capacity": 1.0},
        {"weight": float("inf")},
        {"weight": 10**400},
        {"tags": frozenset({1})},
        {"tags": frozenset({"\ud800"})},
        {"notices": ("x",) * (MAX_NOTICES + 1)},
        {"notices": ("x" * (MAX_NOTICE + 1),)},
        {"notices": ("\udc80",)},
    ],
)
def test_a_node_that_others_could_not_read_is_refused(fields: dict[str, Any]) -> None:
    """The rules for reading hold for writing, too, so a node cannot announce what others refuse."""
    (name,) = fields
    with pytest.raises(InvalidRecord, match=name.rstrip("s")):
        NodeInfo("a.1", **fields)


def test_a_stand_in_for_a_node_that_cannot_be_read() -> None:
    """It keeps its tasks and gets no more, and says why. A record that nobody can read must not attract tasks."""
    node = NodeInfo.unreadable("a.1", InvalidRecord("x" * 999))
    assert (node.full, node.draining, node.frozen, node.capacity) == (True, False, False, None)
    assert node.notices == (f"its record cannot be read: {'x' * 999}"[:MAX_NOTICE],)


@pytest.mark.parametrize(
    "stored, checksums",
    [
        ("{}", set()),
        ('{"handing_over": 7}', set()),
        ('{"handing_over": ["AAAAAQ=="]}', set()),
        ('{"handing_over": "AAAAAQ=="}', {1}),
        ('{"handing_over": "AAAAAQAA"}', {1}),
        ('{"handing_over": "AAAAAQ="}', set()),
        ('{"handing_over": "A?AAAQ=="}', set()),
        ('{"handing_over": "\u00e4"}', set()),
        (f'{{"handing_over": "{base64.b64encode(TOO_MANY).decode()}"}}', set(range(MAX_HANDING_OVER))),
    ],
)
def test_handovers_that_cannot_be_are_dropped(stored: str, checksums: set[int]) -> None:
    assert NodeInfo.decode("a.1", stored.encode()).handing_over == checksums


def test_tasks_that_are_being_handed_over() -> None:
    node = NodeInfo("a.1", handing_over=checksums(["t0", "t1"]))
    assert [node.hands_over(f"t{i}") for i in range(3)] == [True, True, False]


def test_a_record_of_many_slow_handovers_is_small() -> None:
    """Every node reads every record."""
    node = NodeInfo("a.1", handing_over=checksums(f"{i:0128}" for i in range(MAX_HANDING_OVER)))
    assert len(node.encode()) < 1600


@pytest.mark.parametrize(
    "stored, notices",
    [
        (b'{"notices": "frozen"}', ()),
        (b'{"notices": ["blocked", 7, null]}', ("blocked",)),
        (b'{"notices": [' + b",".join([b'"' + b"x" * 999 + b'"'] * 99) + b"]}", ("x" * MAX_NOTICE,) * MAX_NOTICES),
    ],
)
def test_notices_that_cannot_be_shown_are_dropped(stored: bytes, notices: tuple[str, ...]) -> None:
    assert NodeInfo.decode("a.1", stored).notices == notices


def test_node_fields() -> None:
    record: dict[str, Any] = json.loads(NodeInfo("a.1", 1.5, 3, 2.0, frozenset("ba"), full=True).encode())
    assert record == {
        "since": 1.5,
        "capacity": 3,
        "weight": 2.0,
        "tags": ["a", "b"],
        "draining": False,
        "frozen": False,
        "full": True,
    }


def test_name_is_the_identity_without_its_last_part() -> None:
    assert (node_name("web.eu.x1"), NodeInfo("web.eu.x1").name) == ("web.eu", "web.eu")


@pytest.mark.parametrize(
    "stored, losing",
    [
        ('{"losing": {"a": 2, "b": 3}}', {"a": 2, "b": 3}),
        ('{"losing": {"a": -2, "b": 3, "c": 0, "d": true, "e": "2", "f": 2.5, "g": [2]}}', {"b": 3}),
        ('{"losing": ["a"]}', {}),
        ('{"losing": null}', {}),
        ("{}", {}),
    ],
)
def test_losses_that_cannot_be_read_are_as_if_nobody_had_announced_them(stored: str, losing: dict[str, int]) -> None:
    assert dict(NodeInfo.decode("a.1", stored.encode()).losing) == losing


def test_no_more_names_are_read_than_may_be_announced() -> None:
    stored = json.dumps({"losing": {f"n{number}": 2 for number in range(100)}})
    assert len(NodeInfo.decode("a.1", stored.encode()).losing) == MAX_LOSING
