"""Command: a round trip keeps it, and the field names are those of Go Metafora."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metafora_trio as mt
from metafora_trio.contract import InvalidRecord

ids = st.from_regex(r"[A-Za-z0-9_:@=+-]{1,128}", fullmatch=True)


@given(st.builds(mt.Command, st.text(min_size=1, max_size=128), st.none() | ids))
def test_round_trip(command: mt.Command) -> None:
    assert mt.Command.decode(command.encode()) == command


def test_fields() -> None:
    assert json.loads(mt.Command(mt.CommandName.FREEZE).encode()) == {"command": "freeze"}
    assert json.loads(mt.Command(mt.CommandName.STOP_TASK, "t").encode()) == {
        "command": "stop_task",
        "parameters": {"task": "t"},
    }


@pytest.mark.parametrize(
    "stored, problem",
    [
        (b"", "it is not JSON"),
        (b"[]", "it is a list, not a JSON object"),
        (b"{}", "a command's name must have 1 to 128 characters: ''"),
        (b'{"command": 7}', "command is a number, not a string"),
        (b'{"command": "' + b"x" * 129 + b'"}', "a command's name must have 1 to 128 characters: 'xxx"),
        (b'{"command": "' + b"x" * 20_000 + b'"}', "it has 20,015 bytes, more than 16,384"),
    ],
)
def test_not_a_command(stored: bytes, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=problem):
        mt.Command.decode(stored)


@pytest.mark.parametrize("name", ["", "x" * 129, "\ud800", 7, None])
def test_a_name_that_no_node_could_read_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRecord, match="a command's name must have 1 to 128 characters"):
        mt.Command(name)


def test_a_task_that_cannot_exist_is_refused() -> None:
    with pytest.raises(mt.InvalidTask, match="character '/' at position 1"):
        mt.Command("stop_task", "a/b")


@pytest.mark.parametrize("parameters", ["null", "[]", "{}", '{"task": 7}', '{"task": "a/b"}', '"t"'])
def test_unknown_parameters_are_left_to_the_node(parameters: str) -> None:
    """A command with unknown parameters can be decoded. The node reports that it cannot carry it out."""
    stored = f'{{"command": "stop_task", "parameters": {parameters}}}'.encode()
    assert mt.Command.decode(stored) == mt.Command("stop_task")
