"""ReadAhead: reads task records right after claiming, so that the winner can start at once, and a few at a time.

Reads are sent in the order in which they were wanted. `RecordSizes` limits what is under way. Otherwise, on a slow
link, the replies to heartbeats would wait behind the records until the lease runs out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial

import trio

from metafora_trio_zookeeper._connection import Done, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._replies import is_broken

from .record_sizes import RecordSizes

__all__ = ["ReadAhead", "Record"]

_PATIENCE = 6
"""A read that is lost after the session timeout divided by this may have been too large for the link. By then, a
connection on which nothing arrives is given up."""

Record = ReadResult | RequestError | None
"""A task's record, None if there is no such task, or the reason why it cannot be read."""


class ReadAhead:
    """The task records that are wanted, under way, or read and not taken yet.

    Replies and events come in wire order, so every record here is current as of the last event delivered. An event
    about a task makes its record stale: call `forget`.

    Args:
        read: sends a request that reads the records of some tasks.
        arrived: called with each task and its record, in the step in which the record matches the events delivered.
        sizes: how many records to ask for.
        session_timeout: returns it, in seconds.
        now: returns the time.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str], Done], None],
        arrived: Callable[[str, Record], None],
        sizes: RecordSizes,
        session_timeout: Callable[[], float],
        *,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._send = read
        self._arrived = arrived
        self._sizes = sizes
        self._session_timeout = session_timeout
        self._now = now
        self._read: dict[str, Record] = {}
        # The tasks that are wanted or under way, each with an event if a caller of `take` waits for it.
        self._expected: dict[str, trio.Event | None] = {}
        self._wanted: OrderedDict[str, None] = OrderedDict()
        # Those to be read alone, because one of several that were read together was refused.
        self._alone: deque[str] = deque()
        self._under_way = 0

    def want(self, task: str) -> None:
        """Have a task's record read, after those wanted before. Call `pump` after the last."""
        if task not in self._read and task not in self._expected:
            self._expected[task] = None
            self._wanted[task] = None

    def pump(self) -> None:
        """Send reads, up to the limits. Call it only while connected."""
        while tasks := self._next():
            self._under_way += len(tasks)
            self._send(tasks, partial(self._answered, tasks, self._now()))

    def _next(self) -> list[str]:
        """Remove and return the tasks to read in the next request; none if it must wait for replies."""
        count = 1 if self._alone else min(self._sizes.per_read, len(self._wanted))
        if self._under_way and self._under_way + count > self._sizes.under_way:
            return []
        if self._alone:
            return [self._alone.popleft()]
        return [self._wanted.popitem(last=False)[0] for _ in range(count)]

    def _answered(self, tasks: Sequence[str], asked: float, reply: Reply | RequestError) -> None:
        self._under_way -= len(tasks)
        if isinstance(reply, Reply):
            for task, record in zip(tasks, reply.value, strict=True):
                if isinstance(record, ReadResult):
                    self._sizes.add(len(record.data))
                self._keep(task, record)
        elif is_broken(reply):
            if self._now() - asked >= self._session_timeout() / _PATIENCE:
                self._sizes.lost(len(tasks))
            for task in tasks:
                self._cancel(task)
            return  # what is still wanted is cleared after the reconnect
        elif len(tasks) > 1:
            self._alone.extend(tasks)
        else:
            self._keep(tasks[0], reply)
        self.pump()

    def _keep(self, task: str, record: Record) -> None:
        if task in self._expected:  # otherwise nobody wants it any more
            self._read[task] = record
            self._cancel(task)
            self._arrived(task, record)

    def _cancel(self, task: str) -> None:
        """Stop expecting a task's record, and wake a caller of `take`."""
        self._wanted.pop(task, None)
        waiting = self._expected.pop(task, None)
        if waiting is not None:
            waiting.set()

    def forget(self, task: str) -> None:
        """Drop a task's record, because it may have changed."""
        self._read.pop(task, None)

    def unwant(self, task: str) -> None:
        """Drop a task's record, and expect none unless a caller of `take` waits for it."""
        self._read.pop(task, None)
        if self._expected.get(task) is None:
            self._cancel(task)

    def clear(self) -> None:
        """Drop everything. Call it when the view is replaced; the replies to earlier reads have all come by then."""
        self._read.clear()
        self._wanted.clear()
        self._alone.clear()
        for task in list(self._expected):
            self._cancel(task)

    async def take(self, task: str) -> tuple[Record] | None:
        """Remove a task's record and return it, after waiting for an expected read. A checkpoint.

        Returns:
            The record in a tuple, or None if the caller has to `want` it.
        """
        await trio.lowlevel.checkpoint()
        if task in self._expected:
            waiting = self._expected[task]
            if waiting is None:
                waiting = self._expected[task] = trio.Event()
            await waiting.wait()
        elif isinstance(self._read.get(task), RequestError):
            del self._read[task]  # refused for an earlier caller, perhaps long ago
        return (self._read.pop(task),) if task in self._read else None
