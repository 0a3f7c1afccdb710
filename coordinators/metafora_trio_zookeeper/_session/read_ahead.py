"""Records of tasks read ahead: right behind a claim, so that the winner can start at once."""

from __future__ import annotations

import trio

from metafora_trio_zookeeper._connection import ReadResult

__all__ = ["ReadAhead"]


class ReadAhead:
    """Keeps what was read of tasks, until an event makes it old.

    Replies and events come in the order of the wire, so what is here is true as of the last event delivered.
    """

    def __init__(self) -> None:
        self._read: dict[str, ReadResult | None] = {}
        # Reads under way, each with an event once a task waits for it.
        self._expected: dict[str, trio.Event | None] = {}

    def expect(self, task: str) -> None:
        """Note that a read of this task has been queued."""
        self._expected.setdefault(task, None)

    def arrived(self, task: str, record: ReadResult | None) -> None:
        """Keep what a read has brought (None: no such task)."""
        self._read[task] = record
        self.cancel(task)

    def cancel(self, task: str) -> None:
        """Expect no read of this task any more: it has come, or will not come."""
        waiting = self._expected.pop(task, None)
        if waiting is not None:
            waiting.set()

    def forget(self, task: str) -> None:
        """Forget what was read of a task: something has happened to it."""
        self._read.pop(task, None)

    def clear(self) -> None:
        """Forget everything, and expect nothing."""
        self._read.clear()
        for task in list(self._expected):
            self.cancel(task)

    async def take(self, task: str) -> tuple[ReadResult | None] | None:
        """Take what was read, once: it is not needed twice. Waits for a read that is under way. A checkpoint.

        Returns:
            The record within a tuple, or None if it has to be read.
        """
        await trio.lowlevel.checkpoint()
        if task in self._expected:
            waiting = self._expected[task]
            if waiting is None:
                waiting = self._expected[task] = trio.Event()
            await waiting.wait()
        return (self._read.pop(task),) if task in self._read else None
