"""The poison of chaos runs is what it claims to be."""

from __future__ import annotations

import json
from collections import Counter

import pytest

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from metafora_trio import InvalidTask, Task
from metafora_trio.contract import InvalidRecord, decode_props
from metafora_trio_zookeeper._layout import Layout
from stress.chaos.garbage import NAMESPACE, PAYLOADS, bucket, garbage
from stress.chaos.poison import deepest, large


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def test_properties_as_deep_as_a_task_accepts() -> None:
    task = deepest("a")

    levels = depth(dict(task.props))
    assert levels > 50
    with pytest.raises(InvalidTask):
        Task("a", {"in": dict(task.props)})


def test_large_properties() -> None:
    task = large("a")

    assert 500 * 1024 < len(task.encoded) <= 512 * 1024
    with pytest.raises(InvalidTask):
        Task("a", {**task.props, "more": "x" * 4096})


def test_garbage_is_at_every_path_of_the_layout() -> None:
    layout = Layout(NAMESPACE)
    paths = [path for path, _ in garbage(["n1.0123456789"], ["poison-victim-0", "poison-victim-1"])]

    assert [path for path, times in Counter(paths).items() if times > 1] == []
    directories = {path.removeprefix(f"{NAMESPACE}/").partition("/")[0] for path in layout.directories()}
    assert {path.partition("/")[0] for path in paths} == {*directories, "strange"}
    tasks = [path.split("/") for path in paths if path.startswith("tasks/")]
    assert sum(layout.parse_task(*parts[1:]) is not None for parts in tasks if len(parts) == 3) == 2 * len(PAYLOADS)
    claims = [path.split("/") for path in paths if path.startswith("claims/")]
    assert sum(layout.parse_claim(*parts[1:]) is not None for parts in claims if len(parts) == 3) >= 4
    nodes = [path.split("/") for path in paths if path.startswith("nodes/")]
    assert sum(layout.parse_node(*parts[1:]) is not None for parts in nodes if len(parts) == 2) == len(PAYLOADS) + 1


def test_parents_come_before_children() -> None:
    seen = set[str]()
    made = {path.removeprefix(f"{NAMESPACE}/") for path in Layout(NAMESPACE).directories()}
    for path, _ in garbage([], []):
        parent = path.rpartition("/")[0]
        assert parent in seen or parent in made or not parent
        seen.add(path)


def test_most_payloads_cannot_be_read() -> None:
    def readable(data: bytes) -> bool:
        try:
            decode_props("a", data)
        except (InvalidTask, InvalidRecord):
            return False
        return True

    assert [name for name, data in PAYLOADS.items() if readable(data)] == ["types", "empty"]
    assert len(PAYLOADS["large"]) > 900_000


def test_buckets_are_those_of_the_layout() -> None:
    layout = Layout(NAMESPACE)
    names = ["a", "task-1", "poison-task-nan"]

    assert [bucket(name) for name in names] == [layout.bucket(name) for name in names]
    assert all(bucket(name, off=1) != layout.bucket(name) for name in names)
    assert json.loads(layout.new_record(0.0))["buckets"] == 64
