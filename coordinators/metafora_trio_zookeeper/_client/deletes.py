"""Deletes: many tasks in few transactions.

A transaction is all or nothing, and in a large cluster some of its tasks may be ended, deleted or gone. So a chunk of
tasks is first tried as if all of them were in the cluster. If that fails, what is there is read, and each task gets the
writes that suit it. If that fails as well, because somebody has changed one of the tasks meanwhile, the two halves of
the chunk are read and tried on their own: one task that keeps changing delays only itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from metafora_trio import CoordinatorUnavailable, InvalidTask
from metafora_trio_zookeeper._connection import Connection, Create, Delete, ErrorCode, ReadResult, SetData, WriteOp
from metafora_trio_zookeeper._layout import MAX_OPS, TOMBSTONE, decode_state, is_tombstone
from metafora_trio_zookeeper._replies import Burst, Slot

from .parallel import chunks_of, for_each_chunk
from .requests import ATTEMPTS, FreshReads, Requests

__all__ = ["Deletes"]

_IN_FLIGHT = 2
"""The number of transactions in flight. It is low because every node gets an event for each task."""
_MOST_OPS = 3
"""The most operations that one task takes."""


@dataclass(slots=True)
class _Outcome:
    """The tasks of a delete that were not deleted.

    Attributes:
        missing: those of which there is nothing.
        contested: those that others kept changing.
    """

    missing: set[str] = field(default_factory=set)
    contested: list[str] = field(default_factory=list)


class Deletes:
    """Deletes tasks.

    Args:
        requests: the client's requests.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._layout = requests.layout

    async def delete(self, tasks: Sequence[str]) -> list[str]:
        """Delete tasks; return those of which there is nothing. See `BrokerClient.delete`."""
        outcome = _Outcome()

        async def delete(chunk: Sequence[str]) -> None:
            failure = await self._requests.write(
                [SetData(self._layout.task_path(task), TOMBSTONE, 0) for task in chunk]
            )
            if failure is not None:
                for part in chunks_of(chunk, MAX_OPS // _MOST_OPS):
                    await self._delete_what_is_there(part, outcome, unknown=failure is ErrorCode.CONNECTION_LOSS)

        await for_each_chunk(chunks_of(tasks, MAX_OPS), delete, at_once=_IN_FLIGHT)
        if outcome.contested:
            raise CoordinatorUnavailable(
                f"deleting task {outcome.contested[0]!r}: others kept changing it; gave up after {ATTEMPTS} attempts"
            )
        return [task for task in tasks if task in outcome.missing]

    async def _delete_what_is_there(self, tasks: Sequence[str], outcome: _Outcome, *, unknown: bool) -> None:
        """Read tasks, and delete what there is of each.

        Args:
            tasks: the tasks.
            outcome: gets the tasks that are not deleted.
            unknown: whether an earlier attempt may have deleted them. If nothing is left of a task then, take it that
                the attempt did, and that the task's owner has removed the task since.
        """
        for _ in range(ATTEMPTS):
            left: dict[str, list[WriteOp]] = {}
            for task, stored, state in await self._read(tasks):
                ops = self._ops(task, stored, state)
                if ops:
                    left[task] = ops
                elif stored is None and not unknown:
                    outcome.missing.add(task)
            if not left:
                return
            failure = await self._requests.write([op for ops in left.values() for op in ops])
            if failure is None:
                return
            unknown = unknown or failure is ErrorCode.CONNECTION_LOSS
            tasks = list(left)
            if len(tasks) > 1:
                middle = len(tasks) // 2
                for half in (tasks[:middle], tasks[middle:]):
                    await self._delete_what_is_there(half, outcome, unknown=unknown)
                return
        outcome.contested += tasks

    async def _read(self, tasks: Sequence[str]) -> list[tuple[str, ReadResult | None, ReadResult | None]]:
        """Return each task with its record and its state record."""
        paths = [*map(self._layout.task_path, tasks), *map(self._layout.state_path, tasks)]

        def send(connection: Connection, burst: Burst) -> Slot:
            slot = burst.slot()
            connection.read(paths, slot)
            return slot

        found = (await FreshReads(self._requests).read(send)).value
        assert isinstance(found, tuple)
        records = await self._requests.permitted(found)
        return list(zip(tasks, records[: len(tasks)], records[len(tasks) :], strict=True))

    def _ops(self, task: str, stored: ReadResult | None, state: ReadResult | None) -> list[WriteOp]:
        """Return the writes that delete what there is of a task. Each requires that it has not changed since."""
        task_path, state_path = self._layout.task_path(task), self._layout.state_path(task)
        if stored is not None:
            return [] if is_tombstone(stored) else [SetData(task_path, TOMBSTONE, stored.version)]
        if state is None:
            return []
        # Check the version, because another client may submit the task again just now, which writes the state.
        delete = Delete(state_path, state.version)
        if _has_ended(task, state):
            return [delete]
        # The state is left over from a change by hand, or the task was submitted after the records were read. Create
        # the task to distinguish the two: it fails if the task exists.
        return [Create(task_path), Delete(task_path), delete]


def _has_ended(task: str, state: ReadResult) -> bool:
    """Return whether a state record is terminal; false if it cannot be read."""
    try:
        known = decode_state(task, state)
    except InvalidTask:
        return False
    return known is not None and known.state.terminal
