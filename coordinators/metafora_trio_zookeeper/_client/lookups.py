"""Lookups: what is stored about tasks, read fresh and in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from metafora_trio import Claim, InvalidTask
from metafora_trio.contract import StoredTask, TaskSnapshot
from metafora_trio_zookeeper._connection import Connection, Reply, RequestError
from metafora_trio_zookeeper._layout import decode_record, decode_state
from metafora_trio_zookeeper._replies import Burst, Slot
from metafora_trio_zookeeper._session.live_view import LiveView

from .parallel import for_each_chunk
from .record_reads import MOST_AT_ONCE, Found, RecordReads, Records
from .requests import FreshReads, Requests

__all__ = ["Lookups"]

_Queues = Mapping[str, Sequence[Claim]]


class _Reading:
    """The records of some tasks, with the tasks' queues if the view was current when the records arrived.

    Attributes:
        records: the task records, and after them the state records.
        queues: the queues, or None.
    """

    def __init__(self) -> None:
        self.records: Sequence[Found] = ()
        self.queues: _Queues | None = None


class Lookups:
    """Reads what is stored about tasks.

    Args:
        requests: the client's requests.
        reads: reads the records of tasks.
        live: the client's view, which may not be open.
    """

    def __init__(self, requests: Requests, reads: RecordReads, live: LiveView) -> None:
        self._requests = requests
        self._reads = reads
        self._layout = requests.layout
        self._live = live

    async def look_up(self, tasks: Sequence[str]) -> list[TaskSnapshot]:
        """Return a snapshot of each task; see `BrokerClient.look_up`.

        The queues come from the view if the client has one. If it has none, list the claims in the buckets of those
        tasks that still exist. Such a list shows the claims of many other tasks, too.
        """
        fresh, queues = FreshReads(self._requests), dict[str, Sequence[Claim]]()

        async def read(chunk: Sequence[str], paths: Sequence[str]) -> Sequence[Found]:
            reading = await fresh.read(lambda connection, burst: self._send_reads(connection, burst, chunk, paths))
            if reading.queues is not None:
                queues.update(reading.queues)
            else:
                present = [task for task, record in zip(chunk, reading.records, strict=False) if record is not None]
                queues.update(await self._list_queues(fresh, present))
            return reading.records

        found = await self._reads.read(list(dict.fromkeys(tasks)), read, at_once=MOST_AT_ONCE)
        return [_snapshot(task, found[task], queues.get(task, ())) for task in tasks]

    def _send_reads(self, connection: Connection, burst: Burst, tasks: Sequence[str], paths: Sequence[str]) -> _Reading:
        reading, slot = _Reading(), burst.slot()

        def on_read(reply: Reply | RequestError) -> None:
            if isinstance(reply, Reply):
                reading.records = reply.value
                # Only in this step does the view show exactly what the server had applied when it read.
                if self._live.current:
                    reading.queues = {task: tuple(self._live.view.queue(task)) for task in tasks}
            slot(reply)

        connection.read(paths, on_read)
        return reading

    async def _list_queues(self, fresh: FreshReads, tasks: Iterable[str]) -> _Queues:
        """List the claims of tasks."""
        buckets: dict[str, set[str]] = defaultdict(set)
        for task in tasks:
            buckets[self._layout.bucket(task)].add(task)
        if not buckets:
            return {}

        def send(connection: Connection, burst: Burst) -> list[tuple[str, Slot]]:
            return [(bucket, _list(connection, burst, f"{self._layout.claims}/{bucket}")) for bucket in buckets]

        queues: dict[str, list[Claim]] = {}
        for bucket, slot in await fresh.read(send):
            for name in _names(slot):
                # Compare first, because most claims are those of other tasks, and parsing costs more.
                if name.partition("~")[0] in buckets[bucket] and (claim := self._layout.parse_claim(bucket, name)):
                    queues.setdefault(claim.task, []).append(claim)
        return {task: sorted(queue) for task, queue in queues.items()}

    async def finished(self) -> list[str]:
        """Return the ids that have a state, but no task; see `BrokerClient.finished`."""
        layout, fresh, ended = self._layout, FreshReads(self._requests), list[str]()

        async def list_bucket(bucket: str) -> None:
            def send(connection: Connection, burst: Burst) -> tuple[Slot, Slot]:
                # List the states first. A state whose task is then missing belongs to a task that has ended.
                states = _list(connection, burst, f"{layout.states}/{bucket}")
                return states, _list(connection, burst, f"{layout.tasks}/{bucket}")

            states, tasks = map(_names, await fresh.read(send))
            present = set(tasks)
            ended.extend(name for name in states if name not in present and layout.parse_task(bucket, name))

        await for_each_chunk(layout.buckets, list_bucket, at_once=MOST_AT_ONCE)
        return ended


def _list(connection: Connection, burst: Burst, path: str) -> Slot:
    slot = burst.slot()
    connection.children(path, slot)
    return slot


def _names(slot: Slot) -> list[str]:
    assert isinstance(slot.value, list)
    return slot.value


def _snapshot(task: str, found: Records[Found], queue: Sequence[Claim]) -> TaskSnapshot:
    """Decode what was read about a task. A record that cannot be read becomes a problem of the snapshot."""
    stored, state = found
    record, known, task_problem, state_problem = None, None, "", ""
    if isinstance(stored, RequestError):
        record, task_problem = StoredTask({}), f"reading the task is refused: {stored}"
    else:
        try:
            record = decode_record(task, stored)
        except InvalidTask as error:
            record, task_problem = StoredTask({}), str(error)
    if isinstance(state, RequestError):
        state_problem = f"reading the state is refused: {state}"
    else:
        try:
            known = decode_state(task, state)
        except InvalidTask as error:
            state_problem = str(error)
    return TaskSnapshot(record, known, () if stored is None else tuple(queue), task_problem, state_problem)
