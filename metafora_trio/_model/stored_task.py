"""StoredTask and TaskSnapshot: a task as a broker stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metafora_trio._model.state import TaskState

from .claim import Claim
from .props import encode_props

__all__ = ["StoredTask", "TaskSnapshot"]


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task as stored.

    Attributes:
        props: its properties.
        version: 0 as submitted; higher once a client has deleted it.
        encoded: the properties as they are stored. By default `props` is encoded. A handler may change the lists and
            dicts in `props`; the record of its end, with which the task can run again, is made from this.
    """

    props: Mapping[str, Any]
    version: int = 0
    encoded: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.encoded:
            object.__setattr__(self, "encoded", encode_props(self.props))

    @property
    def deleted(self) -> bool:
        """True if the task has a tombstone."""
        return self.version > 0


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """Everything that the broker stores for one task, as looked up by a client.

    Attributes:
        task: the task, or None if it has ended. Without properties if they cannot be read.
        state: its state record, or None if there is none or it cannot be read.
        queue: its claims, head first.
        task_problem: why the task's properties cannot be read; empty if they can.
        state_problem: why the state record cannot be read; empty if it can.
    """

    task: StoredTask | None
    state: TaskState | None
    queue: Sequence[Claim] = ()
    task_problem: str = ""
    state_problem: str = ""
