"""ReadAhead: task records that are read right after claiming, so that the winner can start at once."""

from __future__ import annotations

import trio

from metafora_trio_zookeeper._connection import ReadResult

__all__ = ["ReadAhead"]


class ReadAhead:
    """Keeps the task records that were read, until an event makes them stale.

    Replies and events come in wire order, so every record here is current as of the last event delivered.
    """

    def __init__(self) -> None:
        self._read: dict[str, ReadResult | None] = {}
        # The tasks whose reads are on their way, each with an event if a caller of `take` waits for it.
        self._expected: dict[str, trio.Event | None] = {}

    def expect(self, task: str) -> None:
        """Note that a read of this task's record has been queued."""
        self._expected.setdefault(task, None)

    def arrived(self, task: str, record: ReadResult | None) -> None:
        """Keep the record that was read (None: no such task)."""
        self._read[task] = record
        self.cancel(task)

    def cancel(self, task: str) -> None:
        """Stop expecting a read of this task: it has arrived, or will not."""
        waiting = self._expected.pop(task, None)
        if waiting is not None:
            waiting.set()

    def forget(self, task: str) -> None:
        """Drop a task's record, because it may have changed."""
        self._read.pop(task, None)

    def clear(self) -> None:
        """Drop all records, and expect none."""
        self._read.clear()
        for task in list(self._expected):
            self.cancel(task)

    async def take(self, task: str) -> tuple[ReadResult | None] | None:
        """Remove a task's record and return it, after waiting for an expected read. A checkpoint.

        Returns:
            The record in a tuple, or None if the caller has to read it.
        """
        await trio.lowlevel.checkpoint()
        if task in self._expected:
            waiting = self._expected[task]
            if waiting is None:
                waiting = self._expected[task] = trio.Event()
            await waiting.wait()
        return (self._read.pop(task),) if task in self._read else None
