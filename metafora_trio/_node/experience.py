"""Experience: what a consumer has learned about tasks, other nodes and itself. It outlasts the session."""

from __future__ import annotations

from dataclasses import dataclass, field

from metafora_trio._model.failure_streak import FailureStreak
from metafora_trio._model.lethal_tasks import LethalTasks
from metafora_trio._model.probation import Probation

from .stuck_runs import StuckRuns

__all__ = ["Experience"]


@dataclass(frozen=True, slots=True)
class Experience:
    """The knowledge of a consumer.

    Attributes:
        failures: how many tasks have failed here in a row.
        lethal_tasks: the tasks that seem to end every node that runs them.
        probation: the nodes that keep losing their sessions.
        stuck: the runs of earlier sessions whose scopes have not closed.
    """

    failures: FailureStreak
    lethal_tasks: LethalTasks = field(default_factory=LethalTasks)
    probation: Probation = field(default_factory=Probation)
    stuck: StuckRuns = field(default_factory=StuckRuns)

    def begin_session(self) -> None:
        """Note that a new session follows other nodes from now on."""
        self.lethal_tasks.forget_owners()
        self.probation.forget_nodes()
