"""The store that the tasks of a chaos run write to: it refuses old fencing tokens, and keeps what it refused.

One SQLite file, opened by every node. Check and write are one transaction, else the check would prove nothing. A node
writes from a thread, many rows at a time, as a program with a database driver would: so a process that was frozen past
its lease has rows to write when it wakes, and only the store can refuse them.
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
"""Seconds for which writes gather."""
_BUSY = 60.0
"""Seconds to wait for the file: a process may be stopped while it holds the lock."""
_TABLES = """
create table if not exists tops (task text primary key, token integer not null) without rowid;
create table if not exists rows (
    seq integer primary key, t integer not null, task text not null, process text not null, token integer not null,
    accepted integer not null
);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A write as the store saw it: when (CLOCK_MONOTONIC, nanoseconds), whose, and whether it was accepted."""

    t: int
    task: str
    process: str
    token: int
    accepted: bool


@dataclass(slots=True)
class Write:
    """A write on its way. `done` is set when the store has answered."""

    task: str
    token: int
    done: trio.Event = field(default_factory=trio.Event)


class Store:
    """One connection to the store, for one thread.

    Args:
        path: the file; made if it is not there.
        fenced: whether old tokens are refused. False is `--break fencing`.
    """

    def __init__(self, path: str | os.PathLike[str], *, fenced: bool = True) -> None:
        self._database = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = off")  # what is tested are processes, not power cuts
        self._database.executescript(_TABLES)
        self._fenced = fenced

    def write(self, process: str, writes: Sequence[Write]) -> None:
        """Write them in one transaction; those with an old token are kept as refused. Blocks while others write."""
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
    """All rows in the order in which the store took them; none if there is no store."""
    if not path.exists():
        return []
    database = sqlite3.connect(path)
    try:
        rows = database.execute("select t, task, process, token, accepted from rows order by seq").fetchall()
    finally:
        database.close()
    return [Row(t, task, process, token, bool(accepted)) for t, task, process, token, accepted in rows]


class StoreWriter:
    """A node's thread that writes to the store. A context manager; made and entered in Trio.

    Leaving it waits until everything is written. If the store fails, the whole process ends, with status 1 and the
    traceback on standard error: tasks that wait for a store for ever look like tasks that run, and prove nothing.
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
        """Begin a write, and return at once."""
        write = Write(task, token)
        self._queue.put(write)
        return write

    def hurry(self) -> None:
        """Write what has gathered now: a task that must stop waits for its last write."""
        self._hurry.set()

    def _run(self) -> None:
        try:
            self._write()
        except Exception:  # noqa: BLE001 - whatever it is, it ends the process, and is printed
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
