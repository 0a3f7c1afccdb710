"""Changes: a hint which parts of a view have changed."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Changes"]


@dataclass(slots=True)
class Changes:
    """The parts of a view that may have changed since the last look. Only a hint: read the state from the view.

    Attributes:
        tasks: the ids of tasks to look at again.
        nodes: True if a node joined, left or announced a change.
        everything: True if the whole view is new.
    """

    tasks: dict[str, None] = field(default_factory=dict)
    nodes: bool = False
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or self.nodes or bool(self.tasks)
