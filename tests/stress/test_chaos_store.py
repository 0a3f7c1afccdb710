"""The store of chaos runs refuses old tokens, and keeps the refused writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

import trio

from stress.chaos.store import Store, StoreWriter, Write, read_rows


def taken(path: Path) -> list[tuple[str, str, int, bool]]:
    return [(row.task, row.process, row.token, row.accepted) for row in read_rows(path)]


async def test_old_tokens_are_refused_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    store.write("n1.1", [Write("a", 3), Write("b", 1), Write("a", 3)])
    store.write("n2.1", [Write("a", 4)])
    store.write("n1.1", [Write("a", 3), Write("b", 1)])
    store.close()

    assert taken(tmp_path / "store.db") == [
        ("a", "n1.1", 3, True),
        ("b", "n1.1", 1, True),
        ("a", "n1.1", 3, True),
        ("a", "n2.1", 4, True),
        ("a", "n1.1", 3, False),
        ("b", "n1.1", 1, True),
    ]


async def test_without_the_fence_old_tokens_are_accepted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fenced=False)
    store.write("n1.1", [Write("a", 4), Write("a", 3)])
    store.close()

    assert [row.accepted for row in read_rows(tmp_path / "store.db")] == [True, True]


async def test_the_fence_holds_between_connections(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "store.db"), Store(tmp_path / "store.db")
    one.write("n1.1", [Write("a", 4)])
    other.write("n2.1", [Write("a", 3)])
    one.close()
    other.close()

    assert [row.accepted for row in read_rows(tmp_path / "store.db")] == [True, False]


async def test_the_thread_writes_the_batch_and_answers(tmp_path: Path) -> None:
    with StoreWriter(str(tmp_path / "store.db"), "n1.1", fenced=True) as writer:
        writes = [writer.put("a", 2), writer.put("b", 1), writer.put("a", 1)]
        writer.hurry()
        for write in writes:
            with trio.fail_after(30):
                await write.done.wait()

    assert taken(tmp_path / "store.db") == [("a", "n1.1", 2, True), ("b", "n1.1", 1, True), ("a", "n1.1", 1, False)]


async def test_closing_waits_until_everything_is_written(tmp_path: Path) -> None:
    with StoreWriter(str(tmp_path / "store.db"), "n1.1", fenced=True) as writer:
        for token in range(5):
            writer.put("a", token)

    assert [row.token for row in read_rows(tmp_path / "store.db")] == [0, 1, 2, 3, 4]


async def test_a_node_without_a_store_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Otherwise its tasks would look as if they ran, while they wait for a write that never happens."""
    status: list[int] = []
    monkeypatch.setattr(os, "_exit", status.append)
    with StoreWriter(str(tmp_path / "nowhere" / "store.db"), "n1.1", fenced=True):
        pass

    assert status == [1]
    assert "unable to open database file" in capfd.readouterr().err


def test_a_missing_store_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "store.db") == []
