"""BrokerClient: what a broker does for a `Client`."""

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
    """What a broker does for a `Client`: the primitives; the rest is built on them.

    Every method is a checkpoint and raises `CoordinatorUnavailable` when the broker cannot be reached (after
    the coordinator's `connect_timeout`).
    """

    @abstractmethod
    async def submit(self, tasks: Sequence[Task], *, again: bool) -> None:
        """Create tasks, with a state record each, in batches; nothing is written before all were checked.

        Raises:
            TaskExists: at least one is in the cluster already, or is still ending. Tasks of other batches may
                have been submitted: the message says how many were.
            TaskFinished: at least one has a terminal state, and `again` is false; likewise.
        """

    @abstractmethod
    async def delete(self, task: str) -> None:
        """Put a tombstone into a task; where it has ended, remove its state.

        Raises:
            TaskNotFound: neither a task nor a state is there.
        """

    @abstractmethod
    async def look_up(self, task: str) -> TaskSnapshot:
        """What is stored of a task, read afresh (with all three parts empty if nothing is)."""

    @abstractmethod
    async def finished(self) -> Sequence[str]:
        """The ids with a state record and no task: those that have ended and were not deleted."""

    @abstractmethod
    async def send(self, identity: str, command: Command) -> None:
        """Leave a command for one session.

        Raises:
            NodeNotFound: this session is over.
        """

    @abstractmethod
    async def open_view(self) -> ClusterView:
        """The live picture, made at the first call. Not acted on: it may lag behind."""

    @abstractmethod
    async def wait_changed(self) -> None:
        """Wait until `take_changes` would return something (`open_view` first)."""

    @abstractmethod
    def take_changes(self) -> Changes:
        """What has changed in the view since the last call."""
