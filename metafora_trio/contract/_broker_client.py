"""BrokerClient: the primitives on which `Client` is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from metafora_trio._model.changes import Changes
from metafora_trio._model.command import Command
from metafora_trio._model.stored_task import TaskSnapshot
from metafora_trio._model.task import Task
from metafora_trio._model.view import ClusterView

__all__ = ["BrokerClient"]


class BrokerClient(ABC):
    """A connection to the broker for a `Client`, which builds everything else on these methods.

    Every async method but `wait_changed` is a checkpoint and raises `CoordinatorUnavailable` if the broker does not
    answer within the coordinator's `connect_timeout`; the write may then have taken place. A method that was
    cancelled may have taken place too.

    Only `submit` creates what the cluster needs at the broker, such as a namespace. While it does not exist, every
    other async method but `wait_changed` raises `NamespaceNotFound` and writes nothing. A broker without namespaces
    never does.
    """

    @abstractmethod
    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        """Create tasks, each together with an initial state record (`TaskState()`), in batches if need be.

        Check all tasks before writing anything. On return, every one of them is in the view (see `open_view`).

        Args:
            tasks: different ids; the client has checked that.
            again: also accept ids that have ended, and replace their state.

        Raises:
            TaskExists: at least one is in the cluster already, or is still ending after a delete. If another client
                was quicker after the check, batches may have been submitted; the message says how many tasks.
            TaskFinished: at least one has a state but no task, and `again` is false; likewise.
        """

    @abstractmethod
    async def delete(self, tasks: Sequence[str]) -> Sequence[str]:
        """Put a tombstone into each task (`StoredTask.version` becomes 1), or remove the state of one that has ended.

        Do so in batches; a task that does not exist, or that the broker refuses to delete, must not keep the others
        from being deleted. A task itself stays until its owner, or a node that claims it, finishes it. A second delete
        does nothing.

        Args:
            tasks: different ids.

        Returns:
            The ids that have neither a task nor a state. All others are deleted.

        Raises:
            CoordinatorUnavailable: also if others kept changing a task, or if the broker refuses to delete it. Then the
                message names it, and all others have been deleted. Otherwise some tasks may have been deleted.
        """

    @abstractmethod
    async def look_up(self, tasks: Sequence[str]) -> Sequence[TaskSnapshot]:
        """Read what the broker itself stores about tasks, in batches. Return the snapshots in the order of the ids.

        The reads are fresh: they show every write that had been answered before the call, to any node or client. With
        a broker whose servers may lag behind, that takes a barrier: a quorum write before the first read. A record that
        cannot be read is reported in its task's snapshot, and costs the others nothing.
        """

    @abstractmethod
    async def finished(self) -> Sequence[str]:
        """List the ids that have a state but no task: those that have ended and were not deleted. As fresh as
        `look_up`."""

    @abstractmethod
    async def send(self, identity: str, command: Command) -> None:
        """Leave a command for one session. The broker keeps it until the session discards it or ends.

        Raises:
            NodeNotFound: this session has ended.
        """

    @abstractmethod
    async def open_view(self) -> ClusterView:
        """Return the live view; the first call builds it, and only then does the broker have to keep it up to date.

        It may lag behind the writes of others, but shows every task that a `submit` of this client has created. When
        the connection breaks, wait for it, then build the view again and report `Changes.everything`: the view may
        be another object then, so callers ask for it after each wait.
        """

    @abstractmethod
    async def wait_changed(self) -> None:
        """Wait until `take_changes` would return something. A checkpoint. Call `open_view` first."""

    @abstractmethod
    def take_changes(self) -> Changes:
        """Return what has changed in the view since the last call."""
