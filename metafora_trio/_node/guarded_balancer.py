"""GuardedBalancer: the user's balancer, whose exceptions and wrong answers are reported and cost the node nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from metafora_trio.balancers import Balancer, BalancerContext
from metafora_trio.events import BalancerFailed, Event

__all__ = ["GuardedBalancer"]

T = TypeVar("T")


def _checked_ids(answer: Iterable[str]) -> list[str]:
    ids = list(answer)
    for task in ids:
        if not isinstance(task, str):
            raise TypeError(f"the answer names tasks by their ids, not by {task!r}")
    return ids


def _checked_bool(answer: bool) -> bool:
    if not isinstance(answer, bool):
        raise TypeError(f"the answer is True or False, not {answer!r}")
    return answer


def _checked_wait(answer: bool | float) -> float:
    """An answer of `can_claim` in seconds to wait: 0 for True, infinite for False."""
    if isinstance(answer, bool):
        return 0.0 if answer else math.inf
    if not answer >= 0:  # NaN compares as false, and what cannot be compared raises
        raise ValueError(f"the answer is True, False or seconds to wait, not {answer!r}")
    return answer


class GuardedBalancer:
    """Asks a balancer. One that raises, or answers with nonsense, is reported and taken to have no opinion.

    Args:
        balancer: the user's.
        context: what it may look at.
        me: this session's identity, for reports.
        emit: reports an event.
    """

    def __init__(self, balancer: Balancer, context: BalancerContext, me: str, emit: Callable[[Event], None]) -> None:
        self._balancer = balancer
        self._me = me
        self._emit = emit
        self._ask("attach", lambda: balancer.attach(context), None)

    @property
    def even(self) -> bool:
        """Whether this node asks for tasks of nodes that have more than their share."""
        return self._balancer.even

    def seconds_until_claim(self, task: str) -> float:
        """Seconds to wait before this node may take an unclaimed task: 0 for now, infinite for never."""
        return self._ask("can_claim", lambda: _checked_wait(self._balancer.can_claim(task)), 0.0)

    def steal(self) -> list[str]:
        """The tasks of other nodes to bid for, the most wanted first."""
        nothing: list[str] = []
        return self._ask("steal", lambda: _checked_ids(self._balancer.steal()), nothing)

    def release(self) -> list[str]:
        """The tasks running here to give back."""
        nothing: list[str] = []
        return self._ask("release", lambda: _checked_ids(self._balancer.release()), nothing)

    def consents(self, task: str, heir: str, *, otherwise: bool) -> bool:
        """Whether to hand a running task over; `otherwise` if the balancer fails."""
        return self._ask("consent", lambda: _checked_bool(self._balancer.consent(task, heir)), otherwise)

    def _ask(self, method: str, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - whatever a user's balancer raises
            self._emit(BalancerFailed(self._me, method, error))
            return otherwise
