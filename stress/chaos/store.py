"""The store that the tasks of a chaos run write to: it refuses old fencing tokens, and keeps the refused writes.

It is one SQLite file, opened by every node. Check and write are one transaction; otherwise the check would prove
nothing. A node writes many rows at a time from a thread, as a program with a database driver would. So a process that
was frozen past its lease has rows to write when it wakes, and only the store can refuse them.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

__all__ = ["Row", "Store", "StoreWriter", "Write", "read_rows"]

_FLUSH = 0.25
"""Seconds for which writes are collected into a batch."""
_BUSY = 60.0
"""Seconds to wait for the lock of the file, because a process may be stopped while it holds the lock."""
_TABLES = """
create table if not exists tops (task text primary key, token integer not null) without rowid;
create table if not exists rows (
    seq integer primary key, t integer not null, task text not null, process text not null, token integer not null,
    accepted integer not null
);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A write as the store recorded it.

    Attributes:
        t: the time, in nanoseconds of CLOCK_MONOTONIC.
        task: the id of the task that wrote.
        process: the process that it ran in.
        token: its fencing token.
        accepted: True if the store accepted the write.
    """

    t: int
    task: str
    process: str
    token: int
    accepted: bool


@dataclass(slots=True)
class Write:
    """A write in flight. `done` is set when the store has answered."""

    task: str
    token: int
    done: trio.Event = field(default_factory=trio.Event)


class Store:
    """One connection to the store, for one thread.

    Args:
        path: the file; created if it does not exist.
        fenced: refuse old tokens. False with `--break fencing`.
    """

    def __init__(self, path: str | os.PathLike[str], *, fenced: bool = True) -> None:
        self._database = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = off")  # a power cut is not tested, only the death of processes
        self._database.executescript(_TABLES)
        self._fenced = fenced

    def write(self, process: str, writes: Sequence[Write]) -> None:
        """Write in one transaction, and keep writes with an old token as refused. Blocks while another one writes."""
        with self._database as database:
            database.execute("begin immediate")
            for write in writes:
                found = database.execute("select token from tops where task = ?", (write.task,)).fetchone()
                accepted = not self._fenced or found is None or write.token >= found[0]
                if accepted:
                    database.execute("insert or replace into tops values (?, ?)", (write.task, write.token))
                row = (time.monotonic_ns(), write.task, process, write.token, accepted)
                database.execute("insert into rows (t, task, process, token, accepted) values (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        self._database.close()


def read_rows(path: Path) -> list[Row]:
    """Return all rows in the order in which the store recorded them; none if the store does not exist."""
    if not path.exists():
        return []
    database = sqlite3.connect(path)
    try:
        rows = database.execute("select t, task, process, token, accepted from rows order by seq").fetchall()
    finally:
        database.close()
    return [Row(t, task, process, token, bool(accepted)) for t, task, process, token, accepted in rows]


class StoreWriter:
    """A node's thread that writes to the store. A context manager; create and enter it in Trio.

    On exit, wait until everything is written; this blocks. If the store fails, end the whole process with status 1 and
    a traceback on standard error. Otherwise tasks would wait for the store forever, look as if they ran, and prove
    nothing.
    """

    def __init__(self, path: str, process: str, *, fenced: bool) -> None:
        self._path = path
        self._process = process
        self._fenced = fenced
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._trio = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    def put(self, task: str, token: int) -> Write:
        """Queue a write, and return at once."""
        write = Write(task, token)
        self._queue.put(write)
        return write

    def hurry(self) -> None:
        """Write the current batch now, because a task that must stop waits for its last write."""
        self._hurry.set()

    def _run(self) -> None:
        try:
            self._write()
        except Exception:  # noqa: BLE001 - any error is printed and ends the process
            traceback.print_exc()
            os._exit(1)

    def _write(self) -> None:
        store = Store(self._path, fenced=self._fenced)
        try:
            while (write := self._queue.get()) is not None:
                writes = [write]
                self._hurry.wait(_FLUSH)
                self._hurry.clear()
                more = True
                while more and not self._queue.empty():
                    if (write := self._queue.get()) is None:
                        self._queue.put(None)
                        more = False
                    else:
                        writes.append(write)
                store.write(self._process, writes)
                self._trio.run_sync_soon(_answer, writes)
        finally:
            store.close()


def _answer(writes: Sequence[Write]) -> None:
    for write in writes:
        write.done.set()
