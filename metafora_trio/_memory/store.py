"""Store: the broker of `MemoryCoordinator`, which carries out transactions and sends their events to every feed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from metafora_trio._errors import NodeNotFound, TaskExists, TaskFinished
from metafora_trio.contract import (
    Claim,
    ClaimAdded,
    ClaimKind,
    ClaimRemoved,
    ClusterView,
    Command,
    NodeAdded,
    NodeInfo,
    NodeRemoved,
    QueuedCommand,
    StoredTask,
    Task,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
    TaskSnapshot,
    TaskState,
    ViewEvent,
)

from .feed import Feed

__all__ = ["Store"]


class Store:
    """The broker. Every method is one transaction, all or nothing, and sends its changes to every feed.

    Attributes:
        view: the broker's state of nodes, tasks and claims.
        tasks: the stored tasks by id.
        states: the state records by task id.
    """

    def __init__(self) -> None:
        self.view = ClusterView()
        self.tasks: dict[str, StoredTask] = {}
        self.states: dict[str, TaskState] = {}
        self._feeds: dict[Feed, None] = {}
        self._members: dict[str, Feed] = {}
        self._queued_commands: dict[str, QueuedCommand] = {}
        self._numbers = itertools.count(1)

    def _commit(self, *events: ViewEvent) -> None:
        for event in events:
            self.view.apply(event)
            for feed in self._feeds:
                feed.inbox.put(event)

    def number(self) -> int:
        """Return a number higher than any before."""
        return next(self._numbers)

    def copy_view(self) -> ClusterView:
        """Return a copy of the broker's view."""
        copy = ClusterView()
        for node in self.view.nodes.values():
            copy.apply(NodeAdded(node))
        for task, deleted in self.view.tasks.items():
            copy.apply(TaskAdded(task))
            if deleted:
                copy.apply(TaskDeleted(task))
        for claim in self.view.claims():
            copy.apply(ClaimAdded(claim))
        return copy

    def feed(self, feed: Feed) -> None:
        """Give a feed a copy of the view, and send it every change from now on."""
        feed.view = self.copy_view()
        self._feeds[feed] = None

    def stop_feeding(self, feed: Feed) -> None:
        """Send a feed nothing more. One that was never fed may be given, too."""
        self._feeds.pop(feed, None)

    # ---- sessions

    def join(self, node: NodeInfo, feed: Feed) -> None:
        self._members[node.identity] = feed
        self.put_node(node)
        self.feed(feed)

    def put_node(self, node: NodeInfo) -> None:
        self._commit(NodeAdded(node))

    def end_session(self, identity: str) -> None:
        """Remove a node with its claims and its queued commands."""
        if self._members.pop(identity, None) is None:
            return
        claims = [claim for queue in self.view.claims_of(identity).values() for claim in queue]
        self._queued_commands = {id: queued for id, queued in self._queued_commands.items() if queued.node != identity}
        self._commit(*map(ClaimRemoved, claims), NodeRemoved(identity))

    def add_claim(self, task: str, identity: str, kind: ClaimKind) -> None:
        self._commit(ClaimAdded(Claim(self.number(), task, identity, kind)))

    def remove_claim(self, claim: Claim, *, if_there: Claim | None = None) -> None:
        if self._has(claim) and (if_there is None or self._has(if_there)):
            self._commit(ClaimRemoved(claim))

    def finish(self, claim: Claim, version: int, state: TaskState | None) -> None:
        stored = self.tasks.get(claim.task)
        if not self._has(claim) or stored is None or stored.version != version:
            return
        del self.tasks[claim.task]
        if state is None:
            self.states.pop(claim.task, None)
        else:
            self.states[claim.task] = state
        # Remove the task before the claim. Otherwise the next node in the queue would see itself as the owner.
        self._commit(TaskRemoved(claim.task), ClaimRemoved(claim))

    def _has(self, claim: Claim) -> bool:
        return claim in self.view.queue(claim.task)

    # ---- clients

    def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        for task in tasks:
            if stored := self.tasks.get(task.id):
                raise TaskExists(
                    f"task {task.id!r} is {'still ending' if stored.deleted else 'in the cluster already'}"
                )
            if not again and (ended := self.states.get(task.id)):
                raise TaskFinished(f"task {task.id!r} has ended ({ended.state}): submit it with again=True")
        for task in tasks:
            self.tasks[task.id] = StoredTask(task.props, encoded=task.encoded)
            self.states[task.id] = TaskState()
        self._commit(*(TaskAdded(task.id) for task in tasks))

    def delete(self, task: str) -> bool:
        """Delete a task, or the state of one that has ended. Return False if there is neither."""
        if stored := self.tasks.get(task):
            self.tasks[task] = replace(stored, version=1)
            self._commit(TaskDeleted(task))
            return True
        return self.states.pop(task, None) is not None

    def look_up(self, task: str) -> TaskSnapshot:
        return TaskSnapshot(self.tasks.get(task), self.states.get(task), tuple(self.view.queue(task)))

    def queue_command(self, identity: str, command: Command) -> None:
        member = self._members.get(identity)
        if member is None:
            raise NodeNotFound(f"the session {identity!r} is over")  # no node would ever read the command
        queued = QueuedCommand(f"{identity}~{self.number():010}", identity, command)
        self._queued_commands[queued.id] = queued
        member.inbox.put(queued)

    def remove_command(self, queued: QueuedCommand) -> None:
        self._queued_commands.pop(queued.id, None)
