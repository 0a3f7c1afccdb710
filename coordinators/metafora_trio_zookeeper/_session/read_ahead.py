"""Records of tasks read ahead: right behind a claim, so that the winner can start at once."""

from __future__ import annotations

import trio

from metafora_trio_zookeeper._connection import ReadResult

__all__ = ["ReadAhead"]


class ReadAhead:
    """What was read of tasks, until an event makes it old.

    Replies and events come in the order of the wire: what is here is the truth as of the last event delivered.
    """

    def __init__(self) -> None:
        self._read: dict[str, ReadResult | None] = {}
        # On their way; with an event once somebody waits for one.
        self._expected: dict[str, trio.Event | None] = {}

    def expect(self, task: str) -> None:
        """A read of this task has been queued."""
        self._expected.setdefault(task, None)

    def arrived(self, task: str, record: ReadResult | None) -> None:
        """A read has brought this (None: no such task)."""
        self._read[task] = record
        self.cancel(task)

    def cancel(self, task: str) -> None:
        """The read that was expected will not come, or has come."""
        waiting = self._expected.pop(task, None)
        if waiting is not None:
            waiting.set()

    def forget(self, task: str) -> None:
        """Something has happened to the task."""
        self._read.pop(task, None)

    def clear(self) -> None:
        """Nothing is known and nothing is on its way any more."""
        self._read.clear()
        for task in list(self._expected):
            self.cancel(task)

    async def take(self, task: str) -> tuple[ReadResult | None] | None:
        """What was read, once: nobody needs it twice. Waits for a read that is on its way. A checkpoint.

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
