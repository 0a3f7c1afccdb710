"""ChangedTasks: reads the tasks whose znode has changed, because the event does not say what was written.

It nearly always is a tombstone. But an operator may have set other properties, and that deletes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import trio

from metafora_trio.contract import AsyncBool
from metafora_trio_zookeeper._connection import Done, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._replies import is_broken

from .record_sizes import RecordSizes

__all__ = ["ChangedTasks"]

_AT_ONCE = 32
"""The most tasks that one request reads, if the latest were small. While it is answered, further ones gather, so that a
client that deletes many tasks costs few requests. Properties may be large, so it is no more."""
_FIRST, _LONGEST = 1.0, 60.0
"""First and longest time, in seconds, until a read that was refused is tried again. The time doubles for each task."""


class ChangedTasks:
    """The tasks to read. One request at a time is in flight.

    Args:
        read: reads the records of some tasks.
        on_record: called with each task and its record, in wire order; returns whether it could use the record.
    """

    def __init__(
        self, read: Callable[[Sequence[str], Done], None], on_record: Callable[[str, ReadResult | None], bool]
    ) -> None:
        # These reads have sizes of their own: nearly all are of tombstones, unlike other reads.
        self._sizes = RecordSizes()
        self._read = read
        self._on_record = on_record
        self._waiting: dict[str, None] = {}
        self._refused: dict[str, tuple[float, float]] = {}  # the delay, and when to try again
        self._some_refused = AsyncBool()
        self._in_flight = False

    def add(self, task: str) -> None:
        """Read a task as soon as possible."""
        self._waiting[task] = None
        self._send()

    def refused(self, task: str) -> None:
        """Note that a read of a task was refused, and read it later."""
        delay = min(2 * self._refused[task][0], _LONGEST) if task in self._refused else _FIRST
        self._refused[task] = delay, trio.current_time() + delay
        self._some_refused.value = True

    def forget(self, task: str) -> None:
        """Do not read a task, because it is gone."""
        self._waiting.pop(task, None)
        self._refused.pop(task, None)

    async def run(self) -> None:
        """Try again to read what was refused. Runs until cancelled."""
        while True:
            await self._some_refused.wait_value(True)
            while self._refused:
                next_due = min(due for _, due in self._refused.values())
                await trio.sleep_until(min(next_due, trio.current_time() + _FIRST))  # another may be due before it
                now = trio.current_time()
                for task, (delay, due) in list(self._refused.items()):
                    if due <= now:
                        self._refused[task] = delay, now + delay  # the answer may be lost, or of no use
                        self.add(task)
            self._some_refused.value = False

    def _send(self) -> None:
        if self._waiting and not self._in_flight:
            tasks = list(itertools.islice(self._waiting, min(_AT_ONCE, self._sizes.per_read)))
            for task in tasks:
                del self._waiting[task]
            self._in_flight = True
            self._read(tasks, lambda reply: self._answered(tasks, reply))

    def _answered(self, tasks: Sequence[str], reply: Reply | RequestError) -> None:
        self._in_flight = False
        if isinstance(reply, RequestError) and is_broken(reply):
            self._waiting.clear()  # the resync after the reconnect reads what matters
            return
        found = reply.value if isinstance(reply, Reply) else [reply] * len(tasks)
        self._note_sizes(found)
        for task, record in zip(tasks, found, strict=True):
            if isinstance(record, RequestError):
                self.refused(task)
            elif self._on_record(task, record):
                self._refused.pop(task, None)
        self._send()

    def _note_sizes(self, records: Sequence[ReadResult | RequestError | None]) -> None:
        for record in records:
            if isinstance(record, ReadResult):
                self._sizes.add(len(record.data))
