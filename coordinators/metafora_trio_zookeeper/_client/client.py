"""ZooKeeperClient: the `BrokerClient` of ZooKeeper."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from operator import or_

import trio

from metafora_trio import (
    Command,
    CoordinatorUnavailable,
    MetaforaError,
    NodeNotFound,
    Task,
    TaskExists,
    TaskFinished,
)
from metafora_trio.contract import (
    AsyncBool,
    BrokerClient,
    Changes,
    ClusterView,
    RepeatedEvent,
    TaskSnapshot,
    TaskState,
    check_task_id,
    open_service_nursery,
)
from metafora_trio_zookeeper._connection import (
    Check,
    Connection,
    ConnectionState,
    Create,
    ErrorCode,
    EventType,
    ReadResult,
    RequestError,
    SetData,
    WriteOp,
)
from metafora_trio_zookeeper._layout import MAX_OPS, MAX_REQUEST_BYTES, Layout, decode_state, is_tombstone
from metafora_trio_zookeeper._namespace import ensure_namespace, find_namespace
from metafora_trio_zookeeper._replies import Burst, is_broken
from metafora_trio_zookeeper._session.in_flight import InFlight
from metafora_trio_zookeeper._session.live_view import LiveView

from .deletes import Deletes
from .lookups import Lookups
from .parallel import for_each_chunk
from .record_reads import RecordReads
from .requests import ATTEMPTS, FreshReads, Requests

__all__ = ["ZooKeeperClient"]

_log = logging.getLogger("metafora_trio.zookeeper")

_IN_FLIGHT = 2
"""The number of transactions of one submit in flight. It is low because every node gets an event for each task."""
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
"""Seconds between two attempts to connect again."""
_RUNNABLE = TaskState().encode()
_EXTRA_BYTES = 256
"""Bytes that a submitted task adds to a request, besides its id and properties."""


def _chunks(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """Split tasks into groups that fit into one transaction, each task with its state."""
    first = size = 0
    for place, task in enumerate(tasks):
        cost = len(task.encoded) + 2 * len(task.id) + _EXTRA_BYTES
        if place > first and (place - first == MAX_OPS // 2 or size + cost > MAX_REQUEST_BYTES):
            yield tasks[first:place]
            first, size = place, 0
        size += cost
    if tasks:
        yield tasks[first:]


class ZooKeeperClient(BrokerClient):
    """See `BrokerClient`. `ZooKeeperCoordinator.open_client` makes it and runs `serve`.

    A client holds nothing at the broker, so when its session expires it simply starts another.

    Args:
        connect: makes a connection.
        layout: the namespace.
        hosts: for messages.
        patience: seconds after which a broker that does not answer is reported.
        rng: for jitter.
        now: returns the date and time, in seconds since 1970.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        layout: Layout,
        *,
        hosts: str,
        patience: float,
        rng: random.Random,
        now: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._layout = layout
        self._hosts = hosts
        self._requests = Requests(layout, connect(), hosts=hosts, patience=patience)
        self._live = LiveView(self._requests.connection, layout, InFlight("", len), rng)
        self._reads = RecordReads(layout)
        self._lookups = Lookups(self._requests, self._reads, self._live)
        self._deletes = Deletes(self._requests, self._reads)
        self._now = now
        self._rng = rng
        self._delay = _FIRST_DELAY
        self._prepared = False
        self._made = False
        self._ended = AsyncBool()
        self._wanted = AsyncBool()
        self._followed = RepeatedEvent()
        self._problem: CoordinatorUnavailable | None = None

    # ---- its life, for the coordinator

    async def serve(self) -> None:
        """Stay connected until cancelled.

        Raises:
            CoordinatorUnavailable: ZooKeeper does not accept the credentials, and `prepare` has not returned. After
                that, connecting is tried again, because the reason may pass.
        """
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._live.changed_tasks.run)
            while True:
                connection = self._requests.connection
                try:
                    await connection.open(self)
                    await self._ended.wait_value(True)
                finally:
                    await connection.aclose()
                self._ended.value = False
                self._requests.connection = self._live.connection = await self._connect_again(connection.state)

    async def _connect_again(self, ended: ConnectionState) -> Connection:
        """Make a connection in place of one that has ended in the state `ended`."""
        if ended is ConnectionState.AUTH_FAILED:
            await self._pause(f"ZooKeeper at {self._hosts} does not accept the credentials")
        else:
            self._delay = _FIRST_DELAY
        while True:
            try:
                return self._connect()
            except CoordinatorUnavailable as problem:  # such as a certificate file that is being replaced
                await self._pause(str(problem))

    async def _pause(self, problem: str) -> None:
        """Wait before connecting is tried again. Each wait is longer than the one before."""
        if not self._prepared:
            raise CoordinatorUnavailable(problem)
        _log.warning("a client cannot connect and will try again: %s", problem)
        self._requests.note_problem(problem)
        await trio.sleep(self._delay * self._rng.uniform(0.5, 1.5))
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    async def prepare(self) -> None:
        """Wait for a connection, and check the layout record if there is one."""
        (root,) = await self._requests.read([self._layout.root])
        if root is not None and root.data:
            self._layout.check_record(root.data)
            self._made = True
        self._prepared = True

    async def _make_namespace(self) -> None:
        """Create the namespace if it does not exist."""
        requests = self._requests
        with requests.limit():
            while True:
                await requests.wait_up()
                try:
                    await ensure_namespace(requests.connection, self._layout, self._now())
                except RequestError as error:
                    if not is_broken(error):
                        raise await requests.refused(error) from error
                else:
                    self._made = True
                    return

    async def _follow(self) -> None:
        while True:
            await self._wanted.wait_value(True)
            await self._live.wait_connected()
            try:
                # The generation must be known before a claim is parsed.
                if await find_namespace(self._requests.connection, self._layout):
                    await self._live.sync(self._barrier)
                else:
                    self._stop_following(self._requests.no_namespace())
            except RequestError as error:
                if error.code is ErrorCode.NO_NODE:
                    self._stop_following(self._requests.no_namespace())
                elif not is_broken(error):
                    self._stop_following(await self._requests.refused(error))
            except CoordinatorUnavailable as error:
                self._stop_following(error)
            self._followed.set()

    def _stop_following(self, problem: CoordinatorUnavailable) -> None:
        """Follow nothing until `open_view` is called again. Wake those who wait for changes: they call it, and it
        raises the problem if it has not passed."""
        self._problem = problem
        self._made = False  # the next submit checks the layout record
        self._wanted.value = False
        self._live.touch_everything()
        self._requests.connection.drop()  # so that nothing is watched, and that the next sync starts with a connect

    async def _wait_followed(self) -> None:
        """Wait until the view is current, or cannot be."""
        while not self._live.current and self._problem is None:
            await self._followed.wait()

    def _barrier(self, burst: Burst) -> None:
        self._requests.connection.transact([Check(self._layout.root)], burst.slot())

    # ---- Sink

    def on_event(self, event: EventType, path: str) -> None:
        self._live.on_event(event, path)
        if event is EventType.DELETED and path == self._layout.claims:
            # The namespace is being removed. If it is made again, it has another generation: connect and sync again.
            self._requests.connection.drop()

    def on_state(self, state: ConnectionState) -> None:
        self._live.on_state(state)
        self._requests.on_state(state)
        if state not in (ConnectionState.CONNECTED, ConnectionState.DISCONNECTED):
            self._ended.value = True

    # ---- tasks

    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        submitted = 0
        if tasks and not self._made:
            await self._make_namespace()

        async def submit(chunk: Sequence[Task]) -> None:
            nonlocal submitted
            await self._submit(chunk, again=again)
            submitted += len(chunk)

        try:
            await for_each_chunk(_chunks(tasks), submit, at_once=_IN_FLIGHT)
        except MetaforaError as problem:
            if not submitted:
                raise
            raise type(problem)(f"{problem} ({submitted} of the {len(tasks)} tasks were submitted)") from problem

    async def _submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        layout, requests = self._layout, self._requests
        states: list[ReadResult | None] = [None] * len(tasks)
        if again:
            _, states = await self._read(tasks)
        for _ in range(ATTEMPTS):
            ops: list[WriteOp] = []
            for task, state in zip(tasks, states, strict=True):
                path = layout.state_path(task.id)
                ops.append(Create(path, _RUNNABLE) if state is None else SetData(path, _RUNNABLE, state.version))
                ops.append(Create(layout.task_path(task.id), task.encoded))
            failure = await requests.write(ops)
            if failure is None:
                return
            if failure.code is ErrorCode.NO_NODE:  # the namespace may have been removed
                await self._make_namespace()
            before = states
            stored, states = await self._read(tasks)
            lost = failure.code is ErrorCode.CONNECTION_LOSS
            here = [_is_record_of(task, record) for task, record in zip(tasks, stored, strict=True)]
            # Somebody's submission of each of these tasks has ended since: perhaps this one, perhaps another.
            since = [lost and again and _is_newer(state, old) for old, state in zip(before, states, strict=True)]
            if lost and any(here) and all(map(or_, here, since)):
                return  # one transaction submits all of them, so those that are here prove that the others arrived
            unknown = "; the answer to this submit was lost" if lost else ""
            for task, record, state, ended in zip(tasks, stored, states, since, strict=True):
                if record is not None:
                    where = "is still ending" if is_tombstone(record) else "is in the cluster already"
                    raise TaskExists(f"task {task.id!r} {where}{unknown}")
                if ended and (known := decode_state(task.id, state)) is not None and known.state.terminal:
                    raise TaskFinished(
                        f"task {task.id!r} has ended ({known.state}), in this submission or in another{unknown}"
                    )
                # A state that is not terminal and has no task is left over from a change by hand: overwrite it.
                known = None if again else decode_state(task.id, state)
                if known is not None and known.state.terminal:
                    raise TaskFinished(
                        f"task {task.id!r} has ended ({known.state}): submit it with again=True{unknown}"
                    )
        raise self._contested("submitting tasks")

    async def _read(self, tasks: Sequence[Task]) -> tuple[list[ReadResult | None], list[ReadResult | None]]:
        """Return the tasks' own records, and those of their states."""
        found = await self._reads.read([task.id for task in tasks], lambda _, paths: self._requests.read(paths))
        records = list(found.values())
        return [record.task for record in records], [record.state for record in records]

    async def delete(self, tasks: Sequence[str]) -> Sequence[str]:
        return await self._deletes.delete([check_task_id(task) for task in tasks])

    async def look_up(self, tasks: Sequence[str]) -> Sequence[TaskSnapshot]:
        return await self._lookups.look_up([check_task_id(task) for task in tasks])

    async def finished(self) -> Sequence[str]:
        return await self._lookups.finished()

    async def send(self, identity: str, command: Command) -> None:
        """See `BrokerClient`. If the connection is lost, the command may be queued twice."""
        queued = Create(self._layout.node_command_prefix(identity), command.encode(), sequential=True)
        if self._layout.parse_node(identity) is None:
            raise NodeNotFound(f"{identity!r} is not the identity of a node's session")
        unknown = ""
        for _ in range(ATTEMPTS):
            failure = await self._requests.write([Check(self._layout.node_path(identity)), queued])
            if failure is None:
                return
            if failure.code is not ErrorCode.CONNECTION_LOSS:
                raise NodeNotFound(f"the session {identity!r} is over{unknown}")
            unknown = "; the answer to this command was lost"
        raise self._contested(f"sending a command to {identity}")

    def _contested(self, what: str) -> CoordinatorUnavailable:
        return CoordinatorUnavailable(f"{what}: others kept changing it; gave up after {ATTEMPTS} attempts")

    # ---- the view

    async def open_view(self) -> ClusterView:
        if not self._live.current:
            # Find out first whether the namespace exists: without it, the view never becomes current.
            await FreshReads(self._requests).read(lambda connection, burst: None)
            self._problem = None  # it may have passed: try again
            self._wanted.value = True
            await self._requests.finish(self._wait_followed, self._requests.deadline())
            if (problem := self._problem) is not None:
                raise type(problem)(str(problem)) from problem  # each caller gets an error of its own
        else:
            await trio.lowlevel.checkpoint()
        return self._live.view

    async def wait_changed(self) -> None:
        await self._live.wait_changed()

    def take_changes(self) -> Changes:
        return self._live.take_changes()


def _is_record_of(task: Task, record: ReadResult | None) -> bool:
    """Return whether a task's znode is as submitting this task creates it."""
    return record is not None and record.version == 0 and record.data == task.encoded


def _is_newer(state: ReadResult | None, old: ReadResult | None) -> bool:
    """Return whether a state record was written after the old one was read."""
    return state is not None and (old is None or state.version > old.version)
