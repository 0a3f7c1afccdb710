"""RecordReads: reads the records of tasks, many at a time if they are small.

A client may be far away and look up thousands of tasks with large records. If it requested hundreds of megabytes at
once, everything else on the connection would have to wait behind them. So `RecordSizes` limits what is under way, as it
does for a session. It counts a task's two records as one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from metafora_trio_zookeeper._connection import ReadResult, RequestError
from metafora_trio_zookeeper._layout import MAX_OPS, Layout
from metafora_trio_zookeeper._session.record_sizes import RecordSizes

from .parallel import for_each_chunk

__all__ = ["MOST_AT_ONCE", "Found", "RecordReads", "Records"]

MOST_AT_ONCE = 4
"""The number of requests in flight: enough to keep a server busy."""

Found = ReadResult | RequestError | None
"""A znode's content, the reason why it cannot be read, or None if there is none."""


F = TypeVar("F", bound=Found)


class Records(NamedTuple, Generic[F]):
    """A task's own record, and the record of its state."""

    task: F
    state: F


class RecordReads:
    """Reads both records of tasks, for all requests of one client.

    Args:
        layout: the namespace.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sizes = RecordSizes()

    async def read(
        self,
        tasks: Sequence[str],
        read: Callable[[Sequence[str], Sequence[str]], Awaitable[Sequence[F]]],
        *,
        at_once: int = 1,
    ) -> dict[str, Records[F]]:
        """Read both records of each task.

        Args:
            tasks: different ids.
            read: takes some of the tasks, and the paths of all their records. Returns what is at these paths.
            at_once: the number of calls of `read` that may run at the same time, at most `MOST_AT_ONCE`.

        Raises:
            MetaforaError: the first that `read` raised.
        """
        layout, found = self._layout, dict[str, Records[F]]()

        async def read_chunk(chunk: Sequence[str]) -> None:
            results = await read(chunk, [*map(layout.task_path, chunk), *map(layout.state_path, chunk)])
            for task, *records in zip(chunk, results[: len(chunk)], results[len(chunk) :], strict=True):
                found[task] = Records(*records)
                self._sizes.add(sum(len(one.data) for one in records if isinstance(one, ReadResult)))

        await for_each_chunk(self._chunks(tasks), read_chunk, at_once=at_once)
        return found

    def _chunks(self, tasks: Sequence[str]) -> Iterator[Sequence[str]]:
        """Split tasks into groups to read in one request each. Each group is as large as is right when it is taken."""
        first = 0
        while first < len(tasks):
            count = max(1, min(self._sizes.per_read, self._sizes.under_way // MOST_AT_ONCE, MAX_OPS // 2))
            yield tasks[first : first + count]
            first += count
