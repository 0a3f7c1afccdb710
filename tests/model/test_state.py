"""TaskState: a round trip keeps it, and the field names are those of Go Metafora."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metafora_trio as mt
from metafora_trio._model.json_record import printable
from metafora_trio._model.props import MAX_PROPS_BYTES
from metafora_trio._model.state import MAX_STATE_BYTES
from metafora_trio.contract import InvalidRecord

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)

COMPLETED = mt.TaskState(mt.StateName.COMPLETED)

times = st.datetimes(timezones=st.just(datetime.UTC))
# A beginning, and characters to repeat 9,000 times: Hypothesis cannot print large values.
long_texts = st.tuples(st.text(max_size=20), st.text(st.characters(categories=["Cc", "Cs", "So", "Lu"]), max_size=3))
errors = st.builds(mt.TaskError, times, st.text(), st.text(), st.text())
propses = st.dictionaries(
    st.text(max_size=9), st.lists(st.integers(-(2**63), 2**64 - 1) | st.text(), max_size=3), max_size=3
)
states = st.builds(
    mt.TaskState,
    st.sampled_from(mt.StateName),
    st.lists(errors, max_size=3).map(tuple),
    st.none() | propses,
    st.none() | st.text(),
    st.none() | st.integers(0, 2**64 - 1),
    st.none() | times,
    st.none() | times,
)


@given(states)
def test_round_trip(state: mt.TaskState) -> None:
    assert mt.TaskState.decode(state.encode()) == state


def test_fields() -> None:
    state = mt.TaskState(
        mt.StateName.FAILED, (mt.TaskError(NOON, "it broke", "ValueError", "..."), mt.TaskError(NOON, "x"))
    )
    assert json.loads(state.encode()) == {
        "state": "failed",
        "errors": [
            {"timestamp": "2024-05-01T12:00:00+00:00", "error": "it broke", "type": "ValueError", "traceback": "..."},
            {"timestamp": "2024-05-01T12:00:00+00:00", "error": "x"},
        ],
    }


def test_fields_of_an_end() -> None:
    state = mt.TaskState(
        mt.StateName.COMPLETED, (), {"a": "\xfc"}, "ant.1", 7, NOON, NOON + datetime.timedelta(seconds=1.5)
    )
    assert json.loads(state.encode()) == {
        "state": "completed",
        "props": {"a": "\xfc"},
        "node": "ant.1",
        "token": 7,
        "started": "2024-05-01T12:00:00+00:00",
        "ended": "2024-05-01T12:00:01.500000+00:00",
    }


def test_records_of_others_can_be_read() -> None:
    """Go Metafora writes Z for UTC, nanoseconds, null for no errors, and fields of its own."""
    go = b'{"state":"failed","until":null,"errors":[{"timestamp":"2024-05-01T14:00:00.123456789+02:00","error":"x"}]}'
    when = datetime.datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=datetime.UTC)
    assert mt.TaskState.decode(go) == mt.TaskState(mt.StateName.FAILED, (mt.TaskError(when, "x"),))
    assert mt.TaskState.decode(b'{"state":"completed","errors":null}') == COMPLETED


def test_a_time_without_a_zone_counts_as_utc() -> None:
    naive = NOON.replace(tzinfo=None)
    state = mt.TaskState(errors=(mt.TaskError(naive, "x"),), ended=naive)
    assert mt.TaskState.decode(state.encode()) == mt.TaskState(errors=(mt.TaskError(NOON, "x"),), ended=NOON)


def long(parts: tuple[str, str]) -> str:
    return parts[0] + parts[1] * 9000


@given(st.lists(st.tuples(times, long_texts, long_texts, long_texts), max_size=40), st.text(max_size=200))
def test_the_size_has_a_limit(drawn: list[tuple[datetime.datetime, Any, Any, Any]], node: str) -> None:
    """Whatever the errors are, the record fits into one request with the largest properties, and can be read."""
    many = [mt.TaskError(when, *map(long, texts)) for when, *texts in drawn]
    largest = {"a": "\xfc" * ((MAX_PROPS_BYTES - 10) // 2)}
    encoded = mt.TaskState(mt.StateName.FAILED, many, largest, node, 2**64 - 1, NOON, NOON).encode()
    assert len(encoded) <= MAX_STATE_BYTES
    stored = mt.TaskState.decode(encoded)
    assert stored.props == largest
    assert bool(stored.errors) == bool(many)
    for error, kept in zip(reversed(many), reversed(stored.errors), strict=False):
        assert kept.timestamp == error.timestamp
        assert printable(error.error).startswith(kept.error[:900])
        assert printable(error.traceback).endswith(kept.traceback[-900:])


@pytest.mark.parametrize("props", [{"a": 2**64}, {"a": "x" * MAX_PROPS_BYTES}, {"a": object()}])
def test_properties_that_no_task_may_have_are_left_out(props: dict[str, Any]) -> None:
    """A node must be able to end a task whatever another program has submitted."""
    assert mt.TaskState.decode(mt.TaskState(mt.StateName.COMPLETED, props=props).encode()) == COMPLETED


def test_the_deepest_properties() -> None:
    props: dict[str, Any] = {}
    for _ in range(99):
        props = {"a": props}
    assert mt.TaskState.decode(mt.TaskState(props=mt.Task("t", props).props).encode()).props == props


def test_shortest_record() -> None:
    assert mt.TaskState().encode() == b'{"state":"runnable"}'
    assert mt.TaskState.decode(b"{}") == mt.TaskState()


@pytest.mark.parametrize(
    "stored, problem",
    [
        (b"", "it is not JSON"),
        (b"[]", "it is a list, not a JSON object"),
        (b'{"state": "unknown"}', "state is 'unknown', which is unknown"),
        (b'{"state": ["runnable"]}', "state is a list, not a string"),
        (b'{"errors": 7}', "errors is a number, not a list"),
        (b'{"errors": [7]}', "errors has a number in it"),
        (b'{"errors": [{"error": "x"}]}', "an entry of errors must have a timestamp and an error"),
        (b'{"errors": [{"timestamp": "2024-05-01T12:00:00Z"}]}', "an entry of errors must have"),
        (b'{"errors": [{"timestamp": "noon", "error": "x"}]}', "timestamp is 'noon', not a date and time"),
        (b'{"errors": [{"timestamp": "2024-05-01T12:00:00", "error": "x"}]}', "not a date and time with a time zone"),
        (b'{"props": []}', "props is a list, not an object"),
        (b'{"token": "7"}', "token is a string, not an integer"),
        (b'{"ended": 7}', "ended is a number, not a string"),
        (b'{"state": "failed", "x": "' + b"x" * 10_000_000 + b'"}', "it has 10,000,028 bytes, more than 1,048,576"),
    ],
)
def test_not_a_state(stored: bytes, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=problem):
        mt.TaskState.decode(stored)


def test_terminal() -> None:
    assert {state for state in mt.StateName if state.terminal} == {"completed", "failed", "killed"}
