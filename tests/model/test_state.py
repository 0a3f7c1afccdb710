"""TaskState: a round trip keeps it, and the field names are those of Go Metafora."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metafora_trio as mt

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)

times = st.datetimes(timezones=st.just(datetime.UTC))
errors = st.builds(mt.TaskError, times, st.text(), st.text(), st.text())
states = st.builds(mt.TaskState, st.sampled_from(mt.StateName), st.lists(errors, max_size=3).map(tuple))


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


def test_shortest_record() -> None:
    assert mt.TaskState().encode() == b'{"state":"runnable"}'
    assert mt.TaskState.decode(b"{}") == mt.TaskState()


@pytest.mark.parametrize(
    "stored", [b"", b"[]", b'"runnable"', b'{"state": "unknown"}', b'{"errors": [{"timestamp": "noon"}]}']
)
def test_not_a_state(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        mt.TaskState.decode(stored)


def test_terminal() -> None:
    assert {state for state in mt.StateName if state.terminal} == {"completed", "failed", "killed"}
