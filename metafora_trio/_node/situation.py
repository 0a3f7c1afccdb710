"""Situation: the state of this node, as far as `reconcile` needs it."""

from __future__ import annotations

from typing import Protocol

from metafora_trio._model.claim import Claim
from metafora_trio._model.view import ClusterView
from metafora_trio.contract import Session

from .handovers import Handovers

__all__ = ["Situation", "TaskPolicy"]


class TaskPolicy(Protocol):
    """Answers the questions about a task that depend on load and time."""

    def wants(self, task: str) -> bool:
        """Return whether this node's bid for the task is still justified."""
        ...

    def refuses(self, task: str) -> bool:
        """Return whether this node must not start the task now."""
        ...

    def consents(self, task: str, heir: str) -> bool:
        """Return whether to hand the running task over to the node that has bid for it."""
        ...


class Situation:
    """The state of a node in one session. Implements `NodeSituation`.

    Args:
        session: the session.
        policy: the planner.
        handovers: the tasks that are being handed over.
    """

    def __init__(self, session: Session, policy: TaskPolicy, handovers: Handovers) -> None:
        self._session = session
        self._policy = policy
        self.handovers: Handovers = handovers
        self._drain_ended = False
        self._ending = False

    @property
    def view(self) -> ClusterView:
        return self._session.view

    @property
    def me(self) -> str:
        return self._session.node.identity

    @property
    def draining(self) -> bool:
        return self._ending or self._session.node.draining

    @property
    def alone(self) -> bool:
        return self._drain_ended or not any(
            identity != self.me and not node.draining and not node.frozen for identity, node in self.view.nodes.items()
        )

    @property
    def drain_ended(self) -> bool:
        """True once a drain has timed out."""
        return self._drain_ended

    def is_leaving(self, claim: Claim) -> bool:
        return self._session.is_leaving(claim)

    def wants(self, task: str) -> bool:
        return self._policy.wants(task)

    def refuses(self, task: str) -> bool:
        return self._policy.refuses(task)

    def consents(self, task: str, heir: str) -> bool:
        # Ask for room last: it notes that this task waits for it.
        return not self._session.node.frozen and self._policy.consents(task, heir) and self.handovers.has_room()

    def end_drain(self) -> None:
        """Stop waiting for heirs, because the drain has timed out."""
        self._drain_ended = True

    def end(self) -> None:
        """Give every task up as soon as it has stopped, without waiting for heirs, because the session is ending."""
        self._ending = self._drain_ended = True
