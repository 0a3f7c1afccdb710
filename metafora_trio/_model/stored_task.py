"""What a broker stores of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metafora_trio._model.state import TaskState

from .claim import Claim

__all__ = ["StoredTask", "TaskSnapshot"]


@dataclass(frozen=True, slots=True)
class StoredTask:
    """What is stored of a task.

    Attributes:
        props: its properties.
        version: 0 as submitted, 1 when a client has deleted it.
    """

    props: Mapping[str, Any]
    version: int = 0

    @property
    def deleted(self) -> bool:
        """Whether a tombstone stands in the task."""
        return self.version > 0


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """What the broker stores of one task, looked up by a client.

    Attributes:
        task: the task, None when it has ended.
        state: its state record, None if there is none.
        queue: its claims, head first.
    """

    task: StoredTask | None
    state: TaskState | None
    queue: Sequence[Claim] = ()
