"""Situation: what `reconcile` needs to know of this node, besides the task."""

from __future__ import annotations

from typing import Protocol

from metafora_trio._model.claim import Claim
from metafora_trio._model.view import ClusterView
from metafora_trio.contract import Session

__all__ = ["Opinion", "Situation"]


class Opinion(Protocol):
    """Answers the questions about a task that depend on load and time."""

    def wants(self, task: str) -> bool:
        """Whether a bid of this node for the task is still justified."""
        ...

    def consents(self, task: str, heir: str) -> bool:
        """Whether to hand the running task over to the node that has bid for it."""
        ...


class Situation:
    """The node in one session. Implements `NodeSituation`.

    Args:
        session: this membership's.
        opinion: the planner.
        max_handovers: how many tasks may be on their way to other nodes at once.
    """

    def __init__(self, session: Session, opinion: Opinion, *, max_handovers: int) -> None:
        self._session = session
        self._opinion = opinion
        self._max_handovers = max_handovers
        self._handovers = 0
        self._drain_ended = False

    @property
    def view(self) -> ClusterView:
        return self._session.view

    @property
    def me(self) -> str:
        return self._session.node.identity

    @property
    def draining(self) -> bool:
        return self._session.node.draining

    @property
    def alone(self) -> bool:
        return self._drain_ended or not any(
            identity != self.me and not node.draining and not node.frozen for identity, node in self.view.nodes.items()
        )

    def is_leaving(self, claim: Claim) -> bool:
        return self._session.is_leaving(claim)

    def wants(self, task: str) -> bool:
        return self._opinion.wants(task)

    def consents(self, task: str, heir: str) -> bool:
        if self._session.node.frozen or self._handovers >= self._max_handovers:
            return False
        return self._opinion.consents(task, heir)

    def end_drain(self) -> None:
        """Wait for heirs no longer."""
        self._drain_ended = True

    def begin_handover(self) -> None:
        """Count a task that has begun to stop for an heir."""
        self._handovers += 1

    def end_handover(self) -> bool:
        """Count it no longer. Returns whether another task may go now that could not before."""
        self._handovers -= 1
        return self._handovers == self._max_handovers - 1
