"""Removal: claims deleted tasks that no node owns, only to remove them.

A client deletes a task by a tombstone, and only the task's owner removes it. A task that runs has an owner. One that is
unclaimed needs a node that claims it just for that, even if every node is full, frozen or refuses the task. Otherwise
it could never be submitted again. Only a node that drains claims nothing: a client that deletes one task after another
must not keep it from leaving.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping

import trio

from metafora_trio._errors import InvalidTask
from metafora_trio._model.turns import RemovalOrder
from metafora_trio._model.view import ClusterView
from metafora_trio.contract import Session, TaskRefused

__all__ = ["Removal"]

_WINDOW, _LEAST_WINDOW = 128, 16
"""The number of deleted tasks that a node holds at once. The smaller number is for a session that may hold no more
claims: the brokers' limits leave room for that many, and a full cluster must be able to remove what fills it."""
_READS = 256
"""The maximum number of tasks to read for each `backup_delay`."""
_UNCLAIMED_FOR = 2
"""The number of times `backup_delay` for which a task is unclaimed before it is read."""


class Removal:
    """Decides which deleted tasks this node removes.

    Args:
        session: takes the requests.
        backup_delay: seconds after which the next node steps in for one that does not remove a task.
    """

    def __init__(self, session: Session, *, backup_delay: float) -> None:
        self._session = session
        self._me = session.node.identity
        self._delay = backup_delay
        self._due: Iterator[str] | None = None  # None once it has ended
        self._held: dict[str, None] = {}
        self._since: dict[str, float] = {}
        self._to_read: list[str] = []
        self._read_in: ClusterView | None = None
        self._read: set[str] = set()
        self._found: set[str] = set()

    def plan(self, unclaimed_since: Mapping[str, float]) -> None:
        """Decide which tasks to remove, and which to read in search of tombstones. Call only with a current view.

        Args:
            unclaimed_since: the unclaimed tasks, with the time at which each was first seen to be unclaimed.
        """
        if self._session.node.draining:
            self._due = None
            self._to_read = []
            return
        view, now = self._session.view, trio.current_time()
        if view is not self._read_in:
            self._read_in = view
            self._read.clear()
        self._read.intersection_update(unclaimed_since)
        self._found.intersection_update(unclaimed_since)
        waiting = [task for task in view.tombstones if task in view.unclaimed]
        self._since = {task: self._since.get(task, now) for task in waiting}
        self._due = self._mine(self._since, now) if waiting else None
        self._to_read = self._unread(unclaimed_since, now) if unclaimed_since else []

    def _mine(self, waiting: Mapping[str, float], now: float) -> Iterator[str]:
        """Yield the deleted tasks that it is this node's turn to remove.

        There may be a hundred thousand, so `refill` looks at no more of them than it needs to fill the window.
        """
        order = RemovalOrder(self._session.view.nodes.values())
        for task, since in waiting.items():
            # Nodes that have not read the task may not know of its tombstone, so they would not take their turn.
            if task in self._found or order.node_at(task, int((now - since) // self._delay)) == self._me:
                yield task

    def _unread(self, unclaimed_since: Mapping[str, float], now: float) -> list[str]:
        """Return this node's share of the tasks that have been unclaimed for long and not read since the resync."""
        view = self._session.view
        nodes = sorted({*view.nodes, self._me})  # an operator may have removed this node's record
        mine, latest = nodes.index(self._me), now - _UNCLAIMED_FOR * self._delay
        found: list[str] = []
        for task, since in unclaimed_since.items():
            if since > latest or task in self._read or task in view.tombstones:
                continue
            if zlib.crc32(task.encode()) % len(nodes) == mine:
                found.append(task)
                if len(found) == _READS:
                    break
        return found

    def holds(self, task: str) -> bool:
        """Return whether this node has claimed the task only to remove it, so that the claim must run nothing.

        Nobody has asked whether this node may run it. It may have been removed and submitted again meanwhile.
        """
        return task in self._held

    def refill(self) -> None:
        """Claim the tasks that are due, as far as the window allows. Call this before anything else is claimed."""
        session, me = self._session, self._me
        view = session.view
        if self._held:
            self._held = {task: None for task in self._held if session.is_pending(task) or task in view.claims_of(me)}
        if self._due is None or session.node.draining:
            return
        window = _WINDOW if session.free_claims > session.pending else _LEAST_WINDOW
        while len(self._held) < window:
            task = next(self._due, None)
            if task is None:
                self._due = None
                break
            if task in view.tombstones and task in view.unclaimed and not session.is_pending(task):
                self._held[task] = None
                session.claim(task)

    async def search(self) -> None:
        """Read the tasks that `plan` has named, forever, so that the view shows their tombstones.

        Lists of tasks do not show tombstones. One that was written while no node followed the broker, or while this
        node was disconnected, is known to nobody until somebody reads the task. From then on events show it, so each
        node reads a task at most once in a session or after a reconnect.
        """
        while True:
            await trio.sleep(self._delay)
            await self._read_all(self._to_read)

    async def _read_all(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            view = self._session.view
            if task not in view.unclaimed or view is not self._read_in:
                continue
            self._read.add(task)
            try:
                stored = await self._session.read(task)
            except (InvalidTask, TaskRefused):
                continue  # the node that claims it reports that
            if stored is not None and stored.deleted:
                self._found.add(task)
