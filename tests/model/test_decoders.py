"""Decoders: whatever a broker stores, each decoder returns a value or raises its one named error, and nothing else.

What the constructors accept can always be read again, and any node that can be decoded can be planned with.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import metafora_trio as mt
from metafora_trio._model.plan import plan
from metafora_trio._model.turns import RemovalOrder, StepInOrder
from metafora_trio._model.view import ClaimAdded, NodeAdded, TaskAdded
from metafora_trio.contract import ClaimKind, ClusterView, InvalidRecord, decode_props

DECODERS: dict[str, tuple[Callable[[bytes], Any], type[Exception]]] = {
    "props": (lambda stored: decode_props("t", stored), mt.InvalidTask),
    "state": (mt.TaskState.decode, InvalidRecord),
    "command": (mt.Command.decode, InvalidRecord),
    "node": (lambda stored: mt.NodeInfo.decode("a.1", stored), InvalidRecord),
}

FIELDS = [
    *("since", "capacity", "weight", "tags", "draining", "frozen", "full", "notices"),
    *("state", "errors", "timestamp", "error", "type", "traceback", "props", "node", "token", "started", "ended"),
    *("command", "parameters", "task"),
]
"""The names of all fields, so that drawn records often have ones that mean something."""

scalars = (
    st.sampled_from([None, True, False, 0, -1, 1, 1e308, -0.0, 2**63, 2**64, -(2**63) - 1, 10**4000])
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["runnable", "failed", "2024-05-01T12:00:00+00:00", "2024-05-01", "\ud800", "x" * 300, "freeze"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)
texts = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8).map(lambda record: json.dumps(record).encode())
fragments = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b",", b":", b"1e999", b"NaN", b"-", b"0" * 5000, b"true"]
    )
    | st.sampled_from(FIELDS).map(lambda name: b'"%b":' % name.encode())
    | st.binary(max_size=3),
    max_size=40,
).map(b"".join)
deep = st.tuples(st.sampled_from([b"[", b'{"props":', b'{"errors":[']), st.integers(0, 3000)).map(lambda d: d[0] * d[1])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a valid record with some bytes changed, removed or inserted."""
    record = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(record)))
        length = draw(st.integers(0, 3))
        record[at : at + length] = draw(
            st.binary(max_size=3) | st.sampled_from([b"1e999", b"[", b'"', b"NaN", b"-", b"null"])
        )
    return bytes(record)


VALID = [
    mt.Task("t", {"url": "https://example.org", "n": [1, 2.5, None, {"a": True}]}).encoded,
    mt.NodeInfo("a.1", 1.5, 3, 2.0, frozenset("ba"), full=True, notices=("blocked",)).encode(),
    mt.Command("stop_task", "t").encode(),
    b'{"state":"failed","errors":[{"timestamp":"2024-05-01T12:00:00Z","error":"x","type":"E","traceback":"T"}]}',
]
stored_bytes = st.binary() | texts | fragments | deep | mutated()


def check_message(error: Exception) -> None:
    """Check that an error can be logged."""
    assert str(error).encode()


@pytest.mark.parametrize("kind", DECODERS)
@given(stored=stored_bytes)
@example(b'{"capacity": 1e999}')
@example(b'{"since": true}')
@example(b'{"tags": [[]]}')
@example(b'{"errors": [7]}')
@example(b'{"a":' + b"[" * 1500 + b"]" * 1500 + b"}")
def test_a_value_or_the_named_error(kind: str, stored: bytes) -> None:
    decode, error = DECODERS[kind]
    try:
        decode(stored)
    except error as raised:
        check_message(raised)


@given(values)
def test_what_a_task_accepts_can_be_read_again(props: Any) -> None:
    try:
        task = mt.Task("t", props)
    except mt.InvalidTask as raised:
        check_message(raised)
    else:
        assert decode_props("t", task.encoded) == task.props == props


@given(st.text(max_size=200) | scalars, st.none() | st.text() | scalars)
def test_what_a_command_accepts_can_be_read_again(name: Any, task: Any) -> None:
    try:
        command = mt.Command(name, task)
    except (InvalidRecord, mt.InvalidTask) as raised:
        check_message(raised)
    else:
        assert mt.Command.decode(command.encode()) == command


@given(st.dictionaries(st.sampled_from(["since", "capacity", "weight", "tags"]), scalars | st.frozensets(scalars)))
def test_what_a_node_accepts_can_be_read_again(fields: dict[str, Any]) -> None:
    if not isinstance(fields.get("tags", frozenset()), frozenset):
        del fields["tags"]
    try:
        node = mt.NodeInfo("a.1", **fields)
    except InvalidRecord as raised:
        check_message(raised)
    else:
        assert mt.NodeInfo.decode("a.1", node.encode()) == node


numbers = st.sampled_from([0, 1, 3, 2**63 - 1, 2**63, -1, 1.5, None, True]) | st.integers() | st.floats()
node_records = st.fixed_dictionaries(
    {},
    optional={
        "since": numbers,
        "capacity": st.none() | st.integers(0, 4) | numbers,
        "weight": numbers,
        "draining": st.booleans(),
        "frozen": st.booleans(),
        "full": st.booleans(),
        "tags": st.lists(st.text(max_size=5)),
    },
).map(lambda record: json.dumps(record).encode())


@given(
    records=st.lists(node_records | stored_bytes, min_size=1, max_size=5),
    owners=st.lists(st.none() | st.integers(0, 4), max_size=12),
    even=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_any_node_that_can_be_read_can_be_planned_with(
    records: list[bytes], owners: list[int | None], even: bool, seed: random.Random
) -> None:
    """No record can end the nodes that plan with it, and no task is planned for a node that is not there."""
    view = ClusterView()
    for number, stored in enumerate(records):
        try:
            node = mt.NodeInfo.decode(f"n.{number}", stored)
        except InvalidRecord as error:
            node = mt.NodeInfo.unreadable(f"n.{number}", error)
        view.apply(NodeAdded(node))
    for number, owner in enumerate(owners):
        view.apply(TaskAdded(f"t{number}"))
        if owner is not None:
            view.apply(ClaimAdded(mt.Claim(number, f"t{number}", f"n.{owner}", ClaimKind.CLAIM)))
    heirs = plan(view, seed.choice(list(view.nodes)), even=even)
    assert set(heirs.values()) <= view.nodes.keys()
    assert StepInOrder(view.nodes).node_at("t0", 1, first=None) in view.nodes
    assert RemovalOrder(view.nodes.values()).node_at("t0", 0) in view.nodes
