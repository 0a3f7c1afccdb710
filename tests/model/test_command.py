"""Command: a round trip keeps it, and the field names are those of Go Metafora."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metafora_trio as mt


@given(st.builds(mt.Command, st.text(), st.none() | st.text()))
def test_round_trip(command: mt.Command) -> None:
    assert mt.Command.decode(command.encode()) == command


def test_fields() -> None:
    assert json.loads(mt.Command(mt.CommandName.FREEZE).encode()) == {"command": "freeze"}
    assert json.loads(mt.Command(mt.CommandName.STOP_TASK, "t").encode()) == {
        "command": "stop_task",
        "parameters": {"task": "t"},
    }


@pytest.mark.parametrize("stored", [b"", b"{", b"[]", b"{}", b'{"command": 7}'])
def test_not_a_command(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        mt.Command.decode(stored)


@pytest.mark.parametrize("parameters", ["null", "[]", "{}", '{"task": 7}', '"t"'])
def test_unknown_parameters_are_left_to_the_node(parameters: str) -> None:
    """A command with unknown parameters can be decoded. The node reports that it cannot carry it out."""
    stored = f'{{"command": "stop_task", "parameters": {parameters}}}'.encode()
    assert mt.Command.decode(stored) == mt.Command("stop_task")
