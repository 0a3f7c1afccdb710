"""Client: submits and deletes tasks, sends commands, lists nodes, waits and watches.

Everything is built on the primitives of `BrokerClient`, so it works with every coordinator. Lists and watches come from
a live view, which may lag behind the broker. The status of a single task (`get`, the results of `wait`) is read from
the broker each time, fresh: every write that was answered before is in it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

from metafora_trio._errors import NodeNotFound, TaskExists, TaskFinished, TaskNotFound
from metafora_trio._model.command import Command, CommandName
from metafora_trio._model.task import Task, check_task_id
from metafora_trio._model.view import ClusterView
from metafora_trio._service_nursery import open_service_nursery
from metafora_trio.contract import BrokerClient, Coordinator

from .status import NodeStatus, TaskStatus, TaskStatusName, found_status, listed_status, node_statuses
from .watch import Listener, Watch

__all__ = ["Client", "open_client"]

_BATCH = 2048
"""The number of tasks to look up at once: enough to keep a broker busy."""


class Client:
    """Submits and deletes tasks, sends commands, lists nodes. Create it with `open_client`.

    Many Trio tasks may share one client. Every method is a checkpoint and raises `CoordinatorUnavailable` if the broker
    cannot be reached. If the namespace does not exist, `submit` creates it, and all others raise `NamespaceNotFound`.
    """

    def __init__(self, broker: BrokerClient, nursery: trio.Nursery) -> None:
        self._broker = broker
        self._nursery = nursery
        self._listeners: dict[Listener, None] = {}
        self._following = False

    # ---- tasks

    async def submit(self, *tasks: Task | Iterable[Task], again: bool = False) -> None:
        """Submit one task or many, in batches.

        Args:
            *tasks: tasks, or iterables of tasks.
            again: if True, run tasks again whose ids have already ended; their old state is forgotten.

        Raises:
            TaskExists: at least one is already in the cluster, is still ending after a delete, or is given twice.
            TaskFinished: at least one has ended, and `again` is false.
        """
        batch: dict[str, Task] = {}
        for task in _flat(tasks):
            if task.id in batch:
                raise TaskExists(f"task {task.id!r} is given twice")
            batch[task.id] = task
        await self._broker.submit(list(batch.values()), again=again)

    async def retry(self, *ids: str) -> None:
        """Run tasks that have ended again, each with its own properties. Their old ends are forgotten.

        The properties come from the record of the task's end. If two clients retry or submit the same task at the same
        time, it may run twice, one run after the other.

        Raises:
            TaskNotFound: at least one does not exist. Nothing is submitted, here and below.
            TaskExists: at least one is in the cluster, or is still ending after a delete.
            TaskFinished: at least one has ended without a record of its properties, because an older version ended it
                or because they could not be read. Submit it with `again=True`.
        """
        ended: list[TaskStatus] = []
        for batch in _batches([check_task_id(id) for id in dict.fromkeys(ids)]):
            ended += await self._look_up(batch)
        if missing := [status.id for status in ended if status.state is TaskStatusName.DELETED]:
            raise _not_found(missing)
        await self.submit(map(_second_run, ended), again=True)

    async def delete(self, *ids: str) -> None:
        """Delete tasks. A running task is stopped and then removed; for a task that has ended, its state is forgotten.

        Returns when the deletes are recorded. Use `wait` to wait until the tasks are gone.

        Raises:
            TaskNotFound: there is no task for some of the ids; the message names them. All others have been deleted.
            CoordinatorUnavailable: the broker did not answer; some of the tasks may have been deleted. Or it refuses
                to delete some of them: the message names them, and all others that exist have been deleted.
        """
        missing = await self._broker.delete([check_task_id(id) for id in dict.fromkeys(ids)])
        if missing:
            raise _not_found(missing)

    async def get(self, id: str) -> TaskStatus:
        """Return the full status of one task, even if it has ended. It is fresh, so it costs a quorum write.

        Raises:
            TaskNotFound: there is no such task.
        """
        (snapshot,) = await self._broker.look_up([check_task_id(id)])
        status = found_status(id, snapshot)
        if status.state is TaskStatusName.DELETED:
            raise _not_found([id])
        return status

    async def tasks(self, *, finished: bool = False) -> list[TaskStatus]:
        """Return the tasks in the cluster, sorted by id. They come from the view, without properties and state records.

        Args:
            finished: if True, also return tasks that have ended, with their state records, which are read in batches.
                One that cannot be read has the state `unreadable`.
        """
        view = await self._view()
        found = {task: listed_status(view, task) for task in view.tasks}
        if finished:
            for batch in _batches(await self._broker.finished()):
                found.update((status.id, status) for status in await self._look_up(batch))
        # A task that another client has deleted since it was listed is gone.
        return [found[task] for task in sorted(found) if found[task].state is not TaskStatusName.DELETED]

    async def wait(
        self,
        ids: Iterable[str] | None = None,
        *,
        timeout: float | None = None,
        ended: dict[str, TaskStatus] | None = None,
    ) -> dict[str, TaskStatus]:
        """Wait until tasks have ended.

        Args:
            ids: the tasks to wait for. By default all tasks that are in the cluster now.
            timeout: the maximum number of seconds to wait, None for no limit.
            ended: a dict to fill with the results. Each is added as soon as it is known, so it is not lost if this
                method raises or is cancelled.

        Returns:
            The final status of each task, by id. A task deleted while waiting has the state `deleted`, and one whose
            state record cannot be read has the state `unreadable`.

        Raises:
            TaskNotFound: at least one of the tasks does not exist.
            trio.TooSlowError: not all tasks have ended in time; the message names those that have not.
        """
        ended = {} if ended is None else ended
        with self._listening() as listener:
            view = await self._view()
            waiting = set(view.tasks if ids is None else map(check_task_id, ids))
            missing = await self._take_ends(waiting - view.tasks.keys(), waiting, ended)
            if missing:
                for id in missing:
                    del ended[id]
                raise _not_found(missing)
            with trio.move_on_after(math.inf if timeout is None else timeout):
                while waiting:
                    changes = await listener.wait()
                    view = await self._view()
                    changed = waiting if changes.everything else changes.tasks.keys() & waiting
                    await self._take_ends(changed - view.tasks.keys(), waiting, ended)
                return ended
        some = ", ".join(sorted(waiting)[:10]) + (", ..." if len(waiting) > 10 else "")
        count = "1 task has" if len(waiting) == 1 else f"{len(waiting)} tasks have"
        raise trio.TooSlowError(f"{count} not ended within {timeout:g} s: {some}")

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[Watch]:
        """Follow changes in the cluster: `async with client.watch() as changes: async for change in changes`.

        See `Watch` for its guarantees. To wait until certain tasks have ended, `wait` is simpler.
        """
        with self._listening() as listener:
            await self._view()
            yield Watch(self._broker, listener)

    # ---- nodes

    async def nodes(self) -> list[NodeStatus]:
        """Return the live nodes, sorted by identity, with the number of tasks that each owns and bids for."""
        return node_statuses(await self._view())

    async def send(self, node: str, command: Command) -> None:
        """Send a command to a node.

        Args:
            node: an identity, or a name. A name means every live node with that name.
            command: the command.

        Raises:
            NodeNotFound: there is no such live node.
        """
        view = await self._view()
        identities = [node] if node in view.nodes else [id for id, info in view.nodes.items() if info.name == node]
        if not identities:
            raise NodeNotFound(f"no live node {node!r}")
        gone: list[NodeNotFound] = []
        for identity in identities:
            try:
                await self._broker.send(identity, command)
            except NodeNotFound as error:  # the view lags behind; still send to the other nodes with this name
                gone.append(error)
        if len(gone) == len(identities):
            raise NodeNotFound(f"no live node {node!r}: {gone[0]}") from gone[0]

    async def freeze(self, node: str) -> None:
        """Freeze a node: until `unfreeze` it claims nothing, bids for nothing and hands nothing over.

        Raises the same errors as `send`.
        """
        await self.send(node, Command(CommandName.FREEZE))

    async def unfreeze(self, node: str) -> None:
        """End a `freeze`. Raises the same errors as `send`."""
        await self.send(node, Command(CommandName.UNFREEZE))

    async def balance(self, node: str) -> None:
        """Make a node plan and balance at once. Raises the same errors as `send`."""
        await self.send(node, Command(CommandName.BALANCE))

    async def drain(self, node: str) -> None:
        """Make a node hand over all its tasks and leave. Returns when the command is sent, before the node has left.

        Raises the same errors as `send`.
        """
        await self.send(node, Command(CommandName.DRAIN))

    async def stop_task(self, id: str) -> None:
        """Make a task's owner stop the task and give it back. It continues elsewhere, or on that node after a while.

        Raises:
            TaskNotFound: no node owns such a task.
        """
        owner = (await self.get(id)).owner
        if owner is None:
            raise TaskNotFound(f"no node owns task {id!r}")
        try:
            await self._broker.send(owner, Command(CommandName.STOP_TASK, id))
        except NodeNotFound as error:
            raise TaskNotFound(f"no node owns task {id!r}: {owner} has just gone") from error

    # ---- reads

    async def _look_up(self, ids: Sequence[str]) -> list[TaskStatus]:
        """Read tasks fresh from the broker."""
        return list(map(found_status, ids, await self._broker.look_up(ids)))

    async def _take_ends(self, gone: Iterable[str], waiting: set[str], ended: dict[str, TaskStatus]) -> list[str]:
        """Read tasks that are not in the view, and move those that have ended from `waiting` to `ended`.

        Each batch is moved as soon as it is read, so that cancelling loses only one.

        Returns:
            The ids of the tasks of which nothing is left.
        """
        deleted = []
        for batch in _batches(list(gone)):
            for status in await self._look_up(batch):
                if status.ended:
                    ended[status.id] = status
                    waiting.remove(status.id)
                if status.state is TaskStatusName.DELETED:
                    deleted.append(status.id)
        return deleted

    # ---- the view and its changes

    async def _view(self) -> ClusterView:
        """Return the live view. From the first call on, `_follow` takes its changes. Otherwise they would pile up."""
        view = await self._broker.open_view()
        if not self._following:
            self._following = True
            self._nursery.start_soon(self._follow)
        return view

    @contextmanager
    def _listening(self) -> Iterator[Listener]:
        """Collect the view's changes in a listener. Call `_view` before using the listener."""
        listener = Listener()
        self._listeners[listener] = None
        try:
            yield listener
        finally:
            del self._listeners[listener]

    async def _follow(self) -> None:
        """Pass the view's changes to every listener, because `take_changes` returns each change only once."""
        while True:
            await self._broker.wait_changed()
            changes = self._broker.take_changes()
            for listener in self._listeners:
                listener.add(changes)


def _second_run(status: TaskStatus) -> Task:
    """Return the task that runs a task again that has ended."""
    if status.state is TaskStatusName.STRAY:
        raise TaskNotFound(f"task {status.id!r} is stray: it has no end to retry")
    if not status.ended:
        where = "is still ending" if status.state is TaskStatusName.DELETING else "is in the cluster already"
        raise TaskExists(f"task {status.id!r} {where}")
    if status.props is None:
        raise TaskFinished(
            f"task {status.id!r} has ended ({status.state}), but the record of its end has no properties: "
            "submit it with again=True"
        )
    return Task(status.id, status.props)


def _flat(tasks: Iterable[Task | Iterable[Task]]) -> Iterator[Task]:
    for task in tasks:
        if isinstance(task, Task):
            yield task
        else:
            yield from task


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[first : first + _BATCH] for first in range(0, len(ids), _BATCH))


def _not_found(ids: Sequence[str]) -> TaskNotFound:
    more = f" and {len(ids) - 10:,} more" if len(ids) > 10 else ""
    return TaskNotFound(f"no task{'s' * (len(ids) > 1)} {', '.join(map(repr, sorted(ids)[:10]))}{more}")


@asynccontextmanager
async def open_client(coordinator: Coordinator) -> AsyncGenerator[Client]:
    """Connect as a client: `async with open_client(coordinator) as client`.

    Exceptions of the body leave it unwrapped.

    Raises:
        CoordinatorUnavailable: the broker was not reached within the coordinator's `connect_timeout`.
    """
    async with coordinator.open_client() as broker:
        async with open_service_nursery() as nursery:
            yield Client(broker, nursery)
