"""Changes: where to look again in a view."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Changes"]


@dataclass(slots=True)
class Changes:
    """What changed since one last looked. Only a hint where to look: the view is the truth.

    Attributes:
        tasks: the ids of tasks to look at again.
        nodes: nodes came, went or told something new.
        everything: the whole view is new.
    """

    tasks: dict[str, None] = field(default_factory=dict)
    nodes: bool = False
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or self.nodes or bool(self.tasks)
