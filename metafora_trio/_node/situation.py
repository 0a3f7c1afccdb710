"""Situation: the state of this node, as far as `reconcile` needs it."""

from __future__ import annotations

from typing import Protocol

import trio

from metafora_trio._model.claim import Claim
from metafora_trio._model.node_info import MAX_HANDING_OVER
from metafora_trio._model.view import ClusterView
from metafora_trio.contract import Session

__all__ = ["Situation", "TaskPolicy"]

_SLOW = 5.0
"""Seconds after which a handover is announced. Announced within a plan's tick of that, long before bids time out."""


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
        max_handovers: the maximum number of tasks being handed over at once.
    """

    def __init__(self, session: Session, policy: TaskPolicy, *, max_handovers: int) -> None:
        self._session = session
        self._policy = policy
        self._max_handovers = max_handovers
        self._handovers: dict[str, float] = {}  # since when
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
        if self._session.node.frozen or len(self._handovers) >= self._max_handovers:
            return False
        return self._policy.consents(task, heir)

    def end_drain(self) -> None:
        """Stop waiting for heirs, because the drain has timed out."""
        self._drain_ended = True

    def begin_handover(self, task: str) -> None:
        """Note that a task has begun to stop for an heir."""
        self._handovers[task] = trio.current_time()

    def end_handover(self, task: str) -> bool:
        """Note that it has stopped. Returns True if that allows another handover, which was not allowed before."""
        del self._handovers[task]
        return len(self._handovers) == self._max_handovers - 1

    def slow_handovers(self) -> tuple[str, ...]:
        """Return the tasks that have been stopping for their heirs for more than a few seconds, the first ones first.

        Their heirs must know. Otherwise they would in time take their bids for unanswered, withdraw them, and all the
        stopping would be in vain. Fast handovers are not announced, because every announcement reaches every node.
        """
        latest = trio.current_time() - _SLOW
        return tuple(task for task, since in self._handovers.items() if since <= latest)[:MAX_HANDING_OVER]
