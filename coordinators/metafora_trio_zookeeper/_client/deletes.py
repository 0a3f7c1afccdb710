"""Deletes: many tasks in few transactions.

A transaction is all or nothing, and in a large cluster some of its tasks may be ended, deleted or gone. So a chunk of
tasks is first tried as if all of them were in the cluster. If that fails, what is there is read, and each task gets the
writes that suit it. If that fails as well, because somebody has changed one of the tasks meanwhile, the two halves of
the chunk are read and tried on their own: one task that keeps changing delays only itself.

If ZooKeeper refuses a task, it says which one. The task is left out, and the others are tried again without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metafora_trio import CoordinatorUnavailable, InvalidTask
from metafora_trio_zookeeper._connection import (
    Connection,
    Create,
    Delete,
    ErrorCode,
    ReadResult,
    RequestError,
    SetData,
    WriteOp,
)
from metafora_trio_zookeeper._layout import MAX_OPS, TOMBSTONE, decode_state, is_tombstone
from metafora_trio_zookeeper._replies import Burst, Slot

from .parallel import chunks_of, for_each_chunk
from .record_reads import Found, RecordReads, Records
from .requests import ATTEMPTS, FreshReads, Requests

__all__ = ["Deletes"]

_IN_FLIGHT = 2
"""The number of transactions in flight. It is low because every node gets an event for each task."""
_MOST_OPS = 3
"""The most operations that one task takes."""
_REFUSALS = (ErrorCode.NO_AUTH, ErrorCode.NOT_EMPTY)
"""The refusals that concern one znode: its ACL, or a znode that somebody has made below it."""
_CONTESTED = f"others kept changing it; gave up after {ATTEMPTS} attempts"
_MOST_NAMES = 10


@dataclass(slots=True)
class _Outcome:
    """The tasks of a delete that were not deleted.

    Attributes:
        missing: those of which there is nothing.
        problems: the reason for each of those that could not be deleted.
    """

    missing: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)

    def describe_problems(self) -> str:
        """Return the names of the tasks that could not be deleted, by reason."""
        by_reason = defaultdict[str, list[str]](list)
        for task in sorted(self.problems):
            by_reason[self.problems[task]].append(task)
        return "; ".join(f"{_names(tasks)} ({reason})" for reason, tasks in by_reason.items())


class Deletes:
    """Deletes tasks.

    Args:
        requests: the client's requests.
        reads: reads the records of tasks.
    """

    def __init__(self, requests: Requests, reads: RecordReads) -> None:
        self._requests = requests
        self._reads = reads
        self._layout = requests.layout

    async def delete(self, tasks: Sequence[str]) -> list[str]:
        """Delete tasks; return those of which there is nothing. See `BrokerClient.delete`."""
        outcome = _Outcome()

        async def delete(chunk: Sequence[str]) -> None:
            failure = await self._requests.write(
                [SetData(self._layout.task_path(task), TOMBSTONE, 0) for task in chunk], refusals=_REFUSALS
            )
            if failure is not None:
                for part in chunks_of(chunk, MAX_OPS // _MOST_OPS):
                    await self._delete_what_is_there(part, outcome, unknown=failure.code is ErrorCode.CONNECTION_LOSS)

        await for_each_chunk(chunks_of(tasks, MAX_OPS), delete, at_once=_IN_FLIGHT)
        if outcome.problems:
            raise CoordinatorUnavailable(f"not deleted: {outcome.describe_problems()}")
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
            unread: dict[str, RequestError] = {}
            for task, (stored, state) in (await self._read(tasks)).items():
                if isinstance(stored, RequestError):
                    unread[task] = stored
                if isinstance(state, RequestError):
                    if stored is None:
                        await self._refuse(task, state, outcome)
                        continue
                    state = None  # a task is deleted whatever its state is
                ops = self._ops(task, stored, state)
                if ops:
                    left[task] = ops
                elif stored is None and not unknown:
                    outcome.missing.add(task)
            failure = await self._write(left, unread, outcome)
            if failure is None:
                return
            unknown = unknown or failure is ErrorCode.CONNECTION_LOSS
            tasks = list(left)
            if len(tasks) > 1:
                middle = len(tasks) // 2
                for half in (tasks[:middle], tasks[middle:]):
                    await self._delete_what_is_there(half, outcome, unknown=unknown)
                return
        outcome.problems.update(dict.fromkeys(tasks, _CONTESTED))

    async def _write(
        self, left: dict[str, list[WriteOp]], unread: Mapping[str, RequestError], outcome: _Outcome
    ) -> ErrorCode | None:
        """Carry out the writes of some tasks in one transaction.

        A task that is refused is taken out of `left`, and the others are tried again. So is a task that may not be read
        and that somebody has changed: its version remains unknown.

        Args:
            left: the writes of each task.
            unread: why some of the tasks could not be read.
            outcome: gets the tasks that are refused.

        Returns:
            None if all that are left then are deleted. Otherwise the reason why none of them is.
        """
        while left:
            owners = [task for task, ops in left.items() for _ in ops]
            failure = await self._requests.write([op for ops in left.values() for op in ops], refusals=_REFUSALS)
            if failure is None:
                return None
            task = "" if failure.index is None else owners[failure.index]
            if failure.code is ErrorCode.BAD_VERSION and task in unread:
                failure = unread[task]
            elif failure.code not in _REFUSALS:
                return failure.code
            await self._refuse(task, failure, outcome)
            del left[task]
        return None

    async def _refuse(self, task: str, error: RequestError, outcome: _Outcome) -> None:
        # The operation's number in its transaction would mean nothing to a reader.
        outcome.problems[task] = str(await self._requests.refused(RequestError(error.code)))

    async def _read(self, tasks: Sequence[str]) -> dict[str, Records[Found]]:
        """Return the records of each task."""
        fresh = FreshReads(self._requests)

        async def read(_: Sequence[str], paths: Sequence[str]) -> Sequence[Found]:
            def send(connection: Connection, burst: Burst) -> Slot:
                slot = burst.slot()
                connection.read(paths, slot)
                return slot

            found = (await fresh.read(send)).value
            assert isinstance(found, tuple)
            return found

        return await self._reads.read(tasks, read)

    def _ops(self, task: str, stored: Found, state: ReadResult | None) -> list[WriteOp]:
        """Return the writes that delete what there is of a task. Each requires that it has not changed since."""
        task_path, state_path = self._layout.task_path(task), self._layout.state_path(task)
        if isinstance(stored, RequestError):
            # It may be permitted to write it all the same. A task that nobody has changed has version 0.
            return [SetData(task_path, TOMBSTONE, 0)]
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


def _names(tasks: Sequence[str]) -> str:
    more = f" and {len(tasks) - _MOST_NAMES:,} more" if len(tasks) > _MOST_NAMES else ""
    return f"{', '.join(map(repr, tasks[:_MOST_NAMES]))}{more}"
