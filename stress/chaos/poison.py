"""Poison: tasks and znodes that must cost no other task anything. It is injected by a plain kazoo client, and removed.

Raw znodes are written and removed in a thread, through a client of their own for each batch, straight to the servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import trio
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, make_acl

from metafora_trio import CoordinatorUnavailable, InvalidTask, MetaforaError, Task, TaskState, TaskStatusName

from .cluster import ChaosCluster
from .evidence import POISON
from .faults import Fault, FaultKind
from .garbage import NAMESPACE, bucket, garbage
from .poison_handlers import PoisonName
from .records import FaultRecord
from .server_faults import Action
from .traffic import Traffic

__all__ = ["Poison", "deepest", "large"]

_AUTH = [("digest", "submitter:password")]
_READ_ONLY = [make_acl("world", "anyone", read=True)]
_TIMEOUT = 30
"""Seconds within which a raw client must reach the servers, and within which each of its requests must succeed."""
_ENDS = 60.0
"""Seconds within which poison that ends must have ended, whatever else is wrong."""
_RAISES_EVERY = 8.0
_LARGE = 510 * 1024
_FEW = 4

Raw = Callable[[Any], None]
"""A request that a kazoo client makes."""


def deepest(task: str) -> Task:
    """Return a task with properties as deep as `Task` accepts."""
    least, most = 1, 10_000
    while least < most:
        middle = (least + most + 1) // 2
        try:
            Task(task, _nested(middle))
        except (InvalidTask, RecursionError):
            most = middle - 1
        else:
            least = middle
    return Task(task, _nested(least))


def _nested(levels: int) -> dict[str, Any]:
    """Return an object of so many levels: objects and lists in turn."""
    value: dict[str, Any] | list[Any] = {}
    for level in reversed(range(1, levels - 1)):
        value = [value] if level % 2 else {"in": value}
    return {"in": value}


def large(task: str) -> Task:
    """Return a task with nearly the largest properties that there may be."""
    return Task(task, {"pad": "x" * _LARGE})


class Poison:
    """Injects poison into a cluster.

    Args:
        cluster: the cluster.
        traffic: submits and deletes the tasks that are legitimate.

    Attributes:
        actions: the function that injects each kind, and removes it at the end of the fault.
    """

    def __init__(self, cluster: ChaosCluster, traffic: Traffic) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self.actions: Mapping[FaultKind, Action] = {
            FaultKind.UNREADABLE: self._unreadable,
            FaultKind.REFUSED: self._refused,
            FaultKind.GARBAGE: self._garbage,
            FaultKind.RAISING: self._raising,
            FaultKind.DEEP: self._deep,
            FaultKind.STUBBORN: self._stubborn,
            FaultKind.LARGE: self._large,
            FaultKind.BRIEF: self._brief,
            FaultKind.BLOCKING: self._blocking,
        }

    # ---- legitimate tasks, which must run

    async def _deep(self, fault: Fault, record: FaultRecord) -> None:
        await self._keep([deepest(f"{POISON}deep-{number}") for number in range(_FEW)], fault, record)

    async def _large(self, fault: Fault, record: FaultRecord) -> None:
        tasks = []
        for number in range(self._cluster.terms.large):
            tasks.append(large(f"{POISON}large-{number}"))
            await trio.lowlevel.checkpoint()  # each takes some milliseconds, and the proxies run in this process
        await self._keep(tasks, fault, record)

    async def _stubborn(self, fault: Fault, record: FaultRecord) -> None:
        await self._keep(_tasks(PoisonName.STUBBORN, _FEW), fault, record)

    async def _brief(self, fault: Fault, record: FaultRecord) -> None:
        await self._keep(_tasks(PoisonName.BRIEF, 2), fault, record)

    async def _blocking(self, fault: Fault, record: FaultRecord) -> None:
        await self._keep(_tasks(PoisonName.BLOCKS, 1), fault, record)

    async def _keep(self, tasks: Sequence[Task], fault: Fault, record: FaultRecord) -> None:
        """Submit tasks, and delete them at the end of the fault."""
        end = trio.current_time() + fault.seconds
        await self._traffic.submit(tasks, lasting=False)
        record.note = f"{len(tasks)} tasks"
        await trio.sleep_until(end)
        for task in tasks:
            await self._traffic.delete(task.id)

    async def _raising(self, fault: Fault, record: FaultRecord) -> None:
        """Submit tasks that fail, again and again. Each must have failed in the end, and no node with it."""
        end = trio.current_time() + fault.seconds
        names = (PoisonName.EXITS, PoisonName.GROUP, PoisonName.RAISES)
        submitted: list[str] = []
        while trio.current_time() < end:
            tasks = [_task(name, len(submitted) // len(names)) for name in names]
            try:
                await self._traffic.client.submit(tasks)
            except MetaforaError as error:
                record.note = f"a burst may not have happened: {error}"
            else:
                submitted += [task.id for task in tasks]
            await trio.sleep(_RAISES_EVERY)
        await self._expect(submitted, TaskStatusName.FAILED)

    async def _expect(self, tasks: Sequence[str], state: TaskStatusName) -> None:
        """Wait until tasks have ended, and note as a surprise each that has not ended so."""
        found: dict[str, str] = {}
        with trio.move_on_after(_ENDS):
            while len(found) < len(tasks):
                try:
                    for task in tasks:
                        if task not in found and (status := await self._traffic.client.get(task)).ended:
                            found[task] = status.state
                except CoordinatorUnavailable:
                    pass  # the servers are away: ask again
                await trio.sleep(0.5)
        for task in tasks:
            if found.get(task) != state:
                how = f"as {found[task]}, not as {state}" if task in found else f"in {_ENDS:g} s"
                self._cluster.surprises.append(f"{task} has {'not ' * (task not in found)}ended {how}")

    # ---- tasks that the servers keep from the nodes

    async def _unreadable(self, fault: Fault, record: FaultRecord) -> None:
        paths = [_paths(f"{POISON}unreadable-{number}") for number in range(_FEW)]
        await self._raw(_make(state, OPEN_ACL_UNSAFE) for _, state in paths)
        await self._raw(_make(task, CREATOR_ALL_ACL, b"{}") for task, _ in paths)
        record.note = f"{len(paths)} tasks"
        await trio.sleep(fault.seconds)
        await self._raw(_remove(path) for pair in paths for path in pair)

    async def _refused(self, fault: Fault, record: FaultRecord) -> None:
        """The state of some tasks may not be set, and others have a child. At the end of the fault they may end."""
        closed = [_task(PoisonName.RETURNS, number) for number in range(_FEW)]
        parents = [_task(PoisonName.RETURNS, number) for number in range(_FEW, 2 * _FEW)]
        for task in closed:
            path, state = _paths(task.id)
            await self._raw([_make(state, _READ_ONLY), _make(path, OPEN_ACL_UNSAFE, task.encoded)])
        for task in parents:
            path, state = _paths(task.id)
            await self._raw([_make(state, OPEN_ACL_UNSAFE), _make_family(path, task.encoded)])
        record.note = f"{len(closed) + len(parents)} tasks"
        await trio.sleep(fault.seconds)
        for task in closed:
            await self._raw([_replace(_paths(task.id)[1])])
        await self._raw(_remove(f"{_paths(task.id)[0]}/child") for task in parents)
        await self._expect([task.id for task in (*closed, *parents)], TaskStatusName.COMPLETED)

    # ---- garbage

    async def _garbage(self, fault: Fault, record: FaultRecord) -> None:
        victims = [Task(f"{POISON}victim-{number}") for number in range(_FEW)]
        end = trio.current_time() + fault.seconds
        await self._traffic.submit(victims, lasting=False)
        nodes = [status.node.identity for status in await self._traffic.client.nodes()]
        everything = list(garbage(nodes, [task.id for task in victims]))
        await self._raw(_make(f"{NAMESPACE}/{path}", OPEN_ACL_UNSAFE, data) for path, data in everything)
        record.note = f"{len(everything)} znodes"
        await trio.sleep_until(end)
        paths = [f"{NAMESPACE}/{path}" for path, _ in reversed(everything)]
        # A garbage task that was tried has got a state.
        states = [path.replace("/tasks/", "/states/") for path in paths if "/tasks/" in path]
        await self._raw(_remove(path) for path in (*paths, *states))
        for task in victims:
            await self._traffic.delete(task.id)

    # ---- raw znodes

    async def _raw(self, requests: Iterable[Raw]) -> None:
        """Make requests in order through a client of their own."""
        hosts = self._cluster.ensemble.hosts
        await trio.to_thread.run_sync(partial(_run, hosts, list(requests)), abandon_on_cancel=True)


def _task(name: PoisonName, number: int) -> Task:
    return Task(f"{POISON}{name}-{number}", {"poison": str(name)})


def _tasks(name: PoisonName, count: int) -> list[Task]:
    return [_task(name, number) for number in range(count)]


def _paths(task: str) -> tuple[str, str]:
    """Return the paths of a task and of its state."""
    return (f"{NAMESPACE}/tasks/{bucket(task)}/{task}", f"{NAMESPACE}/states/{bucket(task)}/{task}")


def _run(hosts: str, requests: Sequence[Raw]) -> None:
    retry: dict[str, Any] = {"max_tries": -1, "max_delay": 1.0, "deadline": _TIMEOUT}
    client = KazooClient(hosts, auth_data=_AUTH, connection_retry={**retry}, command_retry={**retry})
    client.start(_TIMEOUT)
    try:
        for request in requests:
            request(client)
    finally:
        client.stop()
        client.close()


def _make(path: str, acl: Sequence[Any], data: bytes | None = None) -> Raw:
    """Create a znode; without data, with the state of a new task."""

    def request(client: Any) -> None:
        try:
            client.retry(client.create, path, TaskState().encode() if data is None else data, acl=list(acl))
        except NodeExistsError:
            pass  # an earlier attempt made it, and its answer was lost

    return request


def _make_family(path: str, data: bytes) -> Raw:
    """Create a znode with a child, in one transaction."""

    def request(client: Any) -> None:
        transaction = client.transaction()
        transaction.create(path, data)
        transaction.create(f"{path}/child", b"")
        client.retry(transaction.commit)

    return request


def _remove(path: str) -> Raw:
    def request(client: Any) -> None:
        try:
            client.retry(client.delete, path)
        except NoNodeError:
            pass  # a node removed it, or an earlier attempt did

    return request


def _replace(state: str) -> Raw:
    """Replace the state of a task that nobody may set by one that anybody may set."""

    def request(client: Any) -> None:
        _remove(state)(client)
        _make(state, OPEN_ACL_UNSAFE)(client)

    return request
