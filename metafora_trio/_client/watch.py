"""Watch: an async iterator of what changes in the cluster."""

from __future__ import annotations

import trio

from metafora_trio._model.changes import Changes
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.view import ClusterView
from metafora_trio._trio_util import RepeatedEvent
from metafora_trio.contract import BrokerClient

from .status import NodesChanged, TaskChanged, TaskStatus, listed_status, node_statuses

__all__ = ["Listener", "Watch"]


class Listener:
    """One of several who want to know what changes in one view."""

    def __init__(self) -> None:
        self._changes = Changes(everything=True)
        self._changed = RepeatedEvent()

    def add(self, changes: Changes) -> None:
        self._changes.tasks.update(changes.tasks)
        self._changes.nodes |= changes.nodes
        self._changes.everything |= changes.everything
        self._changed.set()

    async def wait(self) -> Changes:
        """Wait for a change and take it, with all that has gathered. A checkpoint; loses nothing when cancelled."""
        await trio.lowlevel.checkpoint()
        while not self._changes:
            await self._changed.wait()
        changes, self._changes = self._changes, Changes()
        return changes


class Watch:
    """Async iterator of changes; `Client.watch` makes it.

    It begins with all there is, then goes on for ever. Level-triggered and coalescing: an item tells how things are
    at the moment it is taken, and several changes of one task make one item if nobody took the first. So a
    slow reader costs no memory and loses no last state, but it does not see every state between.
    """

    def __init__(self, broker: BrokerClient, listener: Listener) -> None:
        self._broker = broker
        self._listener = listener
        self._changes = Changes()
        self._told: dict[str, TaskStatus] = {}
        self._told_nodes: list[NodeInfo] | None = None

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
        """Take one of the gathered changes that is still one, compared with what was told."""
        if self._changes.everything:
            self._changes = Changes(dict.fromkeys([*self._told, *view.tasks]), nodes=True)
        if self._changes.nodes:
            self._changes.nodes = False
            nodes = node_statuses(view)
            before, self._told_nodes = self._told_nodes, [status.node for status in nodes]
            if before != self._told_nodes:
                return NodesChanged(nodes)
        while self._changes.tasks:
            task = next(iter(self._changes.tasks))
            del self._changes.tasks[task]
            before_task = self._told.pop(task, None)
            status = listed_status(view, task) if task in view.tasks else None
            if status is not None:
                self._told[task] = status
            if status != before_task:
                return TaskChanged(task, status)
        return None
