"""Watch: an async iterator of changes in the cluster."""

from __future__ import annotations

import trio

from metafora_trio._model.changes import Changes
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.view import ClusterView
from metafora_trio._trio_util import RepeatedEvent
from metafora_trio.contract import BrokerClient

from .status import NodesChanged, TaskChanged, TaskStatus, listed_status, node_statuses

__all__ = ["Listener", "Watch"]

_MAX_TASKS = 10_000
"""The number of changed tasks to remember. With more, everything counts as changed, which takes no memory."""


class Listener:
    """Collects the changes of a view for one of its several readers."""

    def __init__(self) -> None:
        self._changes = Changes(everything=True)
        self._changed = RepeatedEvent()

    def add(self, changes: Changes) -> None:
        self._changes.tasks.update(changes.tasks)
        self._changes.nodes |= changes.nodes
        self._changes.everything |= changes.everything
        if self._changes.everything or len(self._changes.tasks) > _MAX_TASKS:
            self._changes = Changes(everything=True)
        self._changed.set()

    async def wait(self) -> Changes:
        """Wait until there are changes, and take all of them. A checkpoint; loses nothing when cancelled."""
        await trio.lowlevel.checkpoint()
        while not self._changes:
            await self._changed.wait()
        changes, self._changes = self._changes, Changes()
        return changes


class Watch:
    """An async iterator of changes, created by `Client.watch`.

    It first reports all nodes and tasks, then their changes, without end. It is level-triggered and coalescing: an item
    shows the state at the moment when it is taken, and several changes of one task become one item if the first has not
    been taken yet. A slow reader therefore costs no memory and always gets the last state, but it does not see every
    state in between.
    """

    def __init__(self, broker: BrokerClient, listener: Listener) -> None:
        self._broker = broker
        self._listener = listener
        self._changes = Changes()
        self._reported: dict[str, TaskStatus] = {}
        self._reported_nodes: list[NodeInfo] | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> TaskChanged | NodesChanged:
        """Wait for the next change. A checkpoint; loses nothing when cancelled."""
        while True:
            if not self._changes:
                self._changes = await self._listener.wait()
            view = await self._broker.open_view()
            if change := self._next(view):
                return change

    def _next(self, view: ClusterView) -> TaskChanged | NodesChanged | None:
        """Return the next pending change that differs from what was last reported, or None."""
        if self._changes.everything:
            self._changes = Changes(dict.fromkeys([*self._reported, *view.tasks]), nodes=True)
        if self._changes.nodes:
            self._changes.nodes = False
            nodes = node_statuses(view)
            before, self._reported_nodes = self._reported_nodes, [status.node for status in nodes]
            if before != self._reported_nodes:
                return NodesChanged(nodes)
        while self._changes.tasks:
            task = next(iter(self._changes.tasks))
            del self._changes.tasks[task]
            before_task = self._reported.pop(task, None)
            status = listed_status(view, task) if task in view.tasks else None
            if status is not None:
                self._reported[task] = status
            if status != before_task:
                return TaskChanged(task, status)
        return None
