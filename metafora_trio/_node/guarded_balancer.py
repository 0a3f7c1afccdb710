"""GuardedBalancer: calls the user's balancer; its exceptions and invalid answers are reported and harm nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import trio

from metafora_trio.balancers import Balancer, BalancerContext
from metafora_trio.events import BalancerFailed, Event

__all__ = ["GuardedBalancer"]

T = TypeVar("T")


def _checked_ids(answer: Iterable[str]) -> list[str]:
    ids = list(answer)
    for task in ids:
        if not isinstance(task, str):
            raise TypeError(f"the answer must be task ids (strings), not {task!r}")
    return ids


def _checked_bool(answer: bool) -> bool:
    if not isinstance(answer, bool):
        raise TypeError(f"the answer must be True or False, not {answer!r}")
    return answer


def _checked_wait(answer: bool | float) -> float:
    """Convert an answer of `can_claim` to seconds to wait: 0 for True, infinite for False."""
    if isinstance(answer, bool):
        return 0.0 if answer else math.inf
    if not answer >= 0:  # refuses NaN, which compares as false; a value that cannot be compared raises
        raise ValueError(f"the answer must be True, False or seconds to wait, not {answer!r}")
    return float(answer)  # it may be a Decimal, which cannot be added to a time


class GuardedBalancer:
    """Asks a balancer. If it raises or gives an invalid answer, reports that and uses a default answer.

    Args:
        balancer: the user's balancer.
        context: the data that the balancer may read.
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
        """True if this node bids for tasks of nodes that have more than their share."""
        return self._ask("even", lambda: _checked_bool(self._balancer.even), Balancer.even)

    def seconds_until_claim(self, task: str) -> float:
        """Return the seconds to wait before this node may claim or bid for a task: 0 for now, infinite for never."""
        return self._ask("can_claim", lambda: _checked_wait(self._balancer.can_claim(task)), 0.0)

    def steal(self) -> list[str]:
        """Return the tasks of other nodes to bid for, most wanted first."""
        nothing: list[str] = []
        return self._ask("steal", lambda: _checked_ids(self._balancer.steal()), nothing)

    def release(self) -> list[str]:
        """Return the running tasks to give back."""
        nothing: list[str] = []
        return self._ask("release", lambda: _checked_ids(self._balancer.release()), nothing)

    def consents(self, task: str, heir: str, *, otherwise: bool) -> bool:
        """Return whether to hand a running task over, or `otherwise` if the balancer fails."""
        return self._ask("consent", lambda: _checked_bool(self._balancer.consent(task, heir)), otherwise)

    def _ask(self, method: str, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except (KeyboardInterrupt, trio.Cancelled):  # the first is meant for the program
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a user's balancer raises, also SystemExit
            self._emit(BalancerFailed(self._me, method, error))
            return otherwise
