"""ZooKeeperClient: the `BrokerClient` of ZooKeeper."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import trio

from metafora_trio import (
    Command,
    CoordinatorUnavailable,
    InvalidTask,
    MetaforaError,
    NodeNotFound,
    Task,
    TaskExists,
    TaskFinished,
    TaskNotFound,
    TaskState,
)
from metafora_trio.contract import AsyncBool, BrokerClient, Changes, ClusterView, TaskSnapshot, check_task_id
from metafora_trio_zookeeper._session.in_flight import InFlight
from metafora_trio_zookeeper._session.live_view import LiveView

from ._connection import (
    Check,
    Connection,
    ConnectionState,
    Create,
    Delete,
    Done,
    ErrorCode,
    EventType,
    ReadResult,
    Reply,
    RequestError,
    SetData,
    WriteOp,
)
from ._errors import translate
from ._layout import MAX_OPS, MAX_REQUEST_BYTES, TOMBSTONE, Layout, decode_record, decode_state, is_tombstone
from ._namespace import ensure_namespace
from ._replies import Burst, ask, is_broken

__all__ = ["ZooKeeperClient"]

_IN_FLIGHT = 2
"""The number of transactions of one submit in flight. It is low because every node gets an event for each task."""
_ATTEMPTS = 10
"""The number of attempts at a change while other clients keep changing the same task."""
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
    """

    def __init__(
        self, connect: Callable[[], Connection], layout: Layout, *, hosts: str, patience: float, rng: random.Random
    ) -> None:
        self._connect = connect
        self._layout = layout
        self._hosts = hosts
        self._patience = patience
        self._connection = connect()
        self._live = LiveView(self._connection, layout, InFlight("", len), rng)
        self._up = AsyncBool()
        self._ended = AsyncBool()
        self._watching = trio.Event()
        self._server = ""
        self._reason = "no connection was made"

    # ---- its life, for the coordinator

    async def serve(self) -> None:
        """Stay connected until cancelled.

        Raises:
            CoordinatorUnavailable: ZooKeeper does not accept the credentials.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._live.changed_tasks.run)
            while True:
                try:
                    await self._connection.open(self)
                    await self._ended.wait_value(True)
                finally:
                    await self._connection.aclose()
                if self._connection.state is ConnectionState.AUTH_FAILED:
                    raise CoordinatorUnavailable(f"ZooKeeper at {self._hosts} does not accept the credentials")
                self._ended.value = False
                self._connection = self._live.connection = self._connect()

    async def prepare(self) -> None:
        """Create the namespace if it does not exist."""
        with self._limit():
            while True:
                await self._up.wait_value(True)
                try:
                    await ensure_namespace(self._connection, self._layout)
                except RequestError as error:
                    if not is_broken(error):
                        raise await translate(self._hosts, self._server, error) from error
                else:
                    return

    async def _follow(self) -> None:
        await self._watching.wait()
        while True:
            await self._live.wait_connected()
            try:
                await self._live.sync(self._barrier)
            except RequestError as error:
                raise await translate(self._hosts, self._server, error) from error

    def _barrier(self, burst: Burst) -> None:
        self._connection.transact([Check(self._layout.root)], burst.slot())

    # ---- Sink

    def on_event(self, event: EventType, path: str) -> None:
        self._live.on_event(event, path)

    def on_state(self, state: ConnectionState) -> None:
        self._live.on_state(state)
        if state is ConnectionState.CONNECTED:
            self._server = self._connection.server
            self._up.value = True
            return
        self._reason = f"the connection is {state.value}"
        self._up.value = False
        if state is not ConnectionState.DISCONNECTED:
            self._ended.value = True

    # ---- requests

    @contextmanager
    def _limit(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._patience):
                yield
        except trio.TooSlowError:
            raise CoordinatorUnavailable(
                f"no answer from ZooKeeper at {self._hosts} within {self._patience:g} s ({self._reason})"
            ) from None

    async def _ask(self, send: Callable[[Done], None]) -> Reply:
        """Send a request until it is answered. It must be safe to repeat."""
        with self._limit():
            while True:
                await self._up.wait_value(True)
                try:
                    return await ask(send)
                except RequestError as error:
                    if not is_broken(error):
                        raise await translate(self._hosts, self._server, error) from error

    async def _write(self, ops: Sequence[WriteOp]) -> ErrorCode | None:
        """Try a transaction once.

        Returns:
            None if it was carried out. Otherwise the reason: a znode exists, does not exist or has changed; or
            CONNECTION_LOSS if its outcome is unknown. In that case a barrier has been passed, so that a read from now
            on shows the outcome.
        """
        with self._limit():
            await self._up.wait_value(True)
            try:
                await ask(lambda done: self._connection.transact(ops, done))
            except RequestError as error:
                if is_broken(error):
                    await self._ask(lambda done: self._connection.transact([Check(self._layout.root)], done))  # noqa: ASYNC120 - a cancel may discard it
                    return ErrorCode.CONNECTION_LOSS
                if error.code not in (ErrorCode.NODE_EXISTS, ErrorCode.NO_NODE, ErrorCode.BAD_VERSION):
                    raise await translate(self._hosts, self._server, error) from error
                return error.code
        return None

    async def _read(self, paths: Iterable[str]) -> list[ReadResult | None]:
        """Read up to `MAX_OPS` znodes."""
        wanted = list(paths)
        found = list((await self._ask(lambda done: self._connection.read(wanted, done))).value)
        for result in found:
            if isinstance(result, RequestError):
                raise await translate(self._hosts, self._server, result) from result
        return found

    async def _list(self, path: str) -> list[str]:
        reply = await self._ask(lambda done: self._connection.children(path, done))
        return list(reply.value)

    def _contested(self, what: str) -> CoordinatorUnavailable:
        return CoordinatorUnavailable(f"{what}: others kept changing it; gave up after {_ATTEMPTS} attempts")

    # ---- tasks

    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        chunks = _chunks(tasks)
        submitted = 0
        problems: list[MetaforaError] = []

        async def work() -> None:
            nonlocal submitted
            for chunk in chunks:
                if problems:
                    return
                try:
                    await self._submit(chunk, again=again)
                except MetaforaError as problem:
                    problems.append(problem)
                else:
                    submitted += len(chunk)

        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for _ in range(_IN_FLIGHT):
                nursery.start_soon(work)
        if problems:
            problem = problems[0]
            if submitted:
                raise type(problem)(f"{problem} ({submitted} of the {len(tasks)} tasks were submitted)") from problem
            raise problem

    async def _submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        layout = self._layout
        states: list[ReadResult | None] = [None] * len(tasks)
        if again:
            states = await self._read(layout.state_path(task.id) for task in tasks)
        for _ in range(_ATTEMPTS):
            ops: list[WriteOp] = []
            for task, state in zip(tasks, states, strict=True):
                path = layout.state_path(task.id)
                ops.append(Create(path, _RUNNABLE) if state is None else SetData(path, _RUNNABLE, state.version))
                ops.append(Create(layout.task_path(task.id), task.encoded))
            failure = await self._write(ops)
            if failure is None:
                return
            stored = await self._read(layout.task_path(task.id) for task in tasks)
            before, states = states, await self._read(layout.state_path(task.id) for task in tasks)
            if failure is ErrorCode.CONNECTION_LOSS and all(
                (record is not None and record.version == 0 and record.data == task.encoded)
                or (again and state is not None and (old is None or state.version > old.version))
                for task, record, old, state in zip(tasks, stored, before, states, strict=True)
            ):
                return  # the tasks arrived, and may even have ended since; only the reply was lost
            unknown = "; the answer to this submit was lost" if failure is ErrorCode.CONNECTION_LOSS else ""
            for task, record, state in zip(tasks, stored, states, strict=True):
                if record is not None:
                    where = "is still ending" if is_tombstone(record) else "is in the cluster already"
                    raise TaskExists(f"task {task.id!r} {where}{unknown}")
                # A state that is not terminal and has no task is left over from a change by hand: overwrite it.
                known = None if again else decode_state(task.id, state)
                if known is not None and known.state.terminal:
                    raise TaskFinished(
                        f"task {task.id!r} has ended ({known.state}): submit it with again=True{unknown}"
                    )
        raise self._contested("submitting tasks")

    async def delete(self, task: str) -> None:
        check_task_id(task)
        path, task_path, unknown = self._layout.state_path(task), self._layout.task_path(task), False
        version = 0
        for _ in range(_ATTEMPTS):
            failure = await self._write([SetData(task_path, TOMBSTONE, version)])
            if failure is None:
                return
            if failure is ErrorCode.BAD_VERSION:
                (record,) = await self._read([task_path])
                if record is None or is_tombstone(record):
                    return  # it was deleted before
                version = record.version  # an operator has set other properties
                continue
            unknown = unknown or failure is ErrorCode.CONNECTION_LOSS
            if failure is ErrorCode.CONNECTION_LOSS:
                continue
            (state,) = await self._read([path])
            if state is None:
                if unknown:
                    return  # an earlier attempt arrived, and the task's owner has removed the task since
                raise TaskNotFound(f"no task {task!r}")
            # Check the version, because another client may submit the task again just now, which writes the state.
            ops: list[WriteOp] = [Delete(path, state.version)]
            if not _has_ended(task, state):
                # Either the task was submitted after the tombstone found none and before this read, or the state is
                # left over from a change by hand. Create the task to distinguish the two: it fails if the task exists.
                ops = [Create(task_path), Delete(task_path), *ops]
            failure = await self._write(ops)
            if failure is None:
                return
            unknown = unknown or failure is ErrorCode.CONNECTION_LOSS
        raise self._contested(f"deleting task {task!r}")

    async def look_up(self, task: str) -> TaskSnapshot:
        check_task_id(task)
        bucket = self._layout.bucket(task)
        stored, state = await self._read([self._layout.task_path(task), self._layout.state_path(task)])
        names = await self._list(f"{self._layout.claims}/{bucket}")
        claims = (self._layout.parse_claim(bucket, name) for name in names if name.startswith(f"{task}~"))
        return TaskSnapshot(
            decode_record(task, stored),
            decode_state(task, state),
            tuple(sorted(claim for claim in claims if claim is not None)),
        )

    async def finished(self) -> Sequence[str]:
        layout, ended = self._layout, []
        for bucket in layout.buckets:
            # List the states first. A state whose task is then missing belongs to a task that has ended.
            states = await self._list(f"{layout.states}/{bucket}")
            tasks = set(await self._list(f"{layout.tasks}/{bucket}")) if states else ()
            ended += [name for name in states if name not in tasks and layout.parse_task(bucket, name)]
        return ended

    async def send(self, identity: str, command: Command) -> None:
        """See `BrokerClient`. If the connection is lost, the command may be queued twice."""
        queued = Create(self._layout.node_command_prefix(identity), command.encode(), sequential=True)
        if self._layout.parse_node(identity) is None:
            raise NodeNotFound(f"{identity!r} is not the identity of a node's session")
        unknown = ""
        for _ in range(_ATTEMPTS):
            failure = await self._write([Check(self._layout.node_path(identity)), queued])
            if failure is None:
                return
            if failure is not ErrorCode.CONNECTION_LOSS:
                raise NodeNotFound(f"the session {identity!r} is over{unknown}")
            unknown = "; the answer to this command was lost"
        raise self._contested(f"sending a command to {identity}")

    # ---- the view

    async def open_view(self) -> ClusterView:
        self._watching.set()
        with self._limit():
            await self._live.wait_current()
        return self._live.view

    async def wait_changed(self) -> None:
        await self._live.wait_changed()

    def take_changes(self) -> Changes:
        return self._live.take_changes()


def _has_ended(task: str, state: ReadResult) -> bool:
    """Return whether a state record is terminal; false if it cannot be read."""
    try:
        known = decode_state(task, state)
    except InvalidTask:
        return False
    return known is not None and known.state.terminal
