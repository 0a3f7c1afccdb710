"""The planner of one membership: now and then, ask who should own what, and act on this node's lines of it."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import trio

from metafora_trio._model.plan import affinity_order, may_receive, plan
from metafora_trio._model.reconcile import RunState
from metafora_trio.balancers._base import BalancerContext
from metafora_trio.events import BalancerFailed

if TYPE_CHECKING:
    from .membership import Membership

__all__ = ["Planner"]

T = TypeVar("T")

_TICK = 3.0
"""Seconds between two looks when nothing happens: the safety net."""
_DEBOUNCE = (0.15, 0.35)
"""Seconds from a change to the plan, drawn at random, so that nodes do not all act on one moment's view."""
_COST_FACTOR = 10
"""A plan that took long is made less often: at most a tenth of the time."""
_SETTLE_CAP = 4
"""A series of joins delays the plan by at most this many times the settling time."""
_CLAIM_WINDOW = 512
"""Claims under way at once: enough to fill the broker's pipeline, few enough that those of tasks that others have
got in the meantime are never sent."""
_BID_WINDOW = 16
_BID_TIMEOUT = 30.0
"""Seconds after which a bid that nobody answered is withdrawn; more by the time that a task may take to stop."""
_ALONE_FIRST, _ALONE_MOST = 1.0, 60.0
"""Seconds for which a node leaves a task alone that it gave back: doubling while the task comes back."""


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
    """An answer of `can_claim` in seconds to wait: none, or without end."""
    if isinstance(answer, bool):
        return 0.0 if answer else math.inf
    if not answer >= 0:  # not a number compares as false, and what cannot be compared raises
        raise ValueError(f"the answer is True, False or seconds to wait, not {answer!r}")
    return answer


class Planner:
    """Claims, bids, and gives back, by the plan and the balancer."""

    def __init__(self, membership: Membership) -> None:
        self._m = membership
        self._consumer = membership.consumer
        self._session = membership.session
        self._context = BalancerContext(self._session, membership.running)
        self._wanted = trio.Event()
        self._urgent = trio.Event()
        self._settled_early = trio.Event()
        self._to_claim: deque[str] = deque()
        self._to_bid: deque[str] = deque()
        self._bids: dict[str, float] = {}
        self._unclaimed_since: dict[str, float] = {}
        self._alone: dict[str, tuple[float, float]] = {}
        self._ask_again: dict[str, float] = {}
        self._known_nodes: set[str] = set()
        self._settled_at = self._settle_began = trio.current_time()
        self._cost = 0.0
        self._guarded("attach", lambda: self._consumer.balancer.attach(self._context), None)
        self.nodes_changed()

    # ---- when

    def tasks_changed(self) -> None:
        """Tasks came, went or changed hands."""
        if not self._wanted.is_set():
            self._wanted.set()

    def nodes_changed(self) -> None:
        """Nodes came, went or told something new: after a join let the cluster settle, after a leave plan at once."""
        now = trio.current_time()
        nodes = set(self._session.view.nodes)
        if nodes - self._known_nodes:
            if now >= self._settled_at:
                self._settle_began = now
            settle = self._consumer.settle
            self._settled_at = min(now + settle, self._settle_began + _SETTLE_CAP * settle)
            # What is left of the last plan gave the newcomer no part.
            self._to_claim.clear()
            self._to_bid.clear()
        if self._known_nodes - nodes:
            self._urgent.set()
        self._known_nodes = nodes
        self.tasks_changed()

    async def run(self) -> None:
        """Plan after changes, and every few seconds. Never returns."""
        while True:
            with trio.move_on_after(self._idle_time()):
                await self._wanted.wait()
            with trio.move_on_after(max(self._consumer.random.uniform(*_DEBOUNCE), _COST_FACTOR * self._cost)):
                await self._urgent.wait()
            while trio.current_time() < self._settled_at and not self._settled_early.is_set():  # joins move it on
                with trio.move_on_at(self._settled_at):
                    await self._settled_early.wait()
            with trio.move_on_after(_TICK):
                while not self._session.quiet:  # noqa: ASYNC110 - bounded, and rare: a backlog is milliseconds
                    await trio.sleep(0.01)
            self._wanted, self._urgent, self._settled_early = trio.Event(), trio.Event(), trio.Event()
            started = trio.current_time()
            self._plan()
            self._m.look_at_contested()
            self._m.leave_if_done()
            self._cost = trio.current_time() - started

    def _idle_time(self) -> float:
        now = trio.current_time()
        times = [until - now for until, _ in self._alone.values() if until > now]
        times += [at - now for at in self._ask_again.values() if at > now]
        return max(0.01, min(_TICK, *times)) if times else _TICK

    def balance(self) -> None:
        """Look at once, by a command."""
        self._urgent.set()
        self._settled_early.set()
        self.tasks_changed()

    # ---- what

    def _plan(self) -> None:
        session, me = self._session, self._m.me
        node = session.node
        view = session.view
        now = trio.current_time()
        self._unclaimed_since = {task: self._unclaimed_since.get(task, now) for task in view.unclaimed}
        self._alone = {task: entry for task, entry in self._alone.items() if now < entry[0] + _ALONE_MOST}
        self._ask_again = {task: at for task, at in self._ask_again.items() if task in view.unclaimed and at > now}
        self._to_claim.clear()
        self._to_bid.clear()
        if not session.current or not may_receive(node):
            return
        self._announce_full()
        bids = [task for task in self._bids if session.is_pending(task)]
        claims = [task for task in view.unclaimed if session.is_pending(task)] if session.pending else []
        heirs = plan(
            view,
            me,
            pending_claims=frozenset(claims),
            pending_bids=frozenset(bids),
            refused={task for task, (until, _) in self._alone.items() if now < until},
            even=self._consumer.balancer.even,
        )
        mine = [task for task, heir in heirs.items() if heir == me]
        self._to_claim.extend(task for task in mine if task in view.unclaimed)
        self._to_claim.extend(self._to_step_in(heirs, now))
        self._context.planned = [task for task in mine if task not in view.unclaimed]
        balancer = self._consumer.balancer
        nothing: list[str] = []
        self._to_bid.extend(self._guarded("steal", lambda: _checked_ids(balancer.steal()), nothing))
        for task in self._guarded("release", lambda: _checked_ids(balancer.release()), nothing):
            run = self._m.runs.get(task)
            if run is not None and run.state is RunState.RUNNING:
                self._m.give_back(run)
        self.refill()

    def _to_step_in(self, heirs: dict[str, str], now: float) -> Iterable[str]:
        """Unclaimed tasks whose first choice did not come: after each delay the next node in order steps in.

        The delay does not begin before the node that had the task has been seen to go, since only then is the task
        unclaimed.
        """
        view, me = self._session.view, self._m.me
        delay = self._consumer.backup_delay
        late = [task for task, since in self._unclaimed_since.items() if now - since > delay and heirs.get(task) != me]
        if not late or self._is_full():
            return
        able = [n.identity for n in view.nodes.values() if may_receive(n) and not n.full]
        for task in late:
            turn = int((now - self._unclaimed_since[task]) // delay)
            order = affinity_order(task, able)
            if order and order[turn % len(order)] == me:
                yield task

    def refill(self) -> None:
        """Go on with the last plan as far as the windows allow: each line is looked at again before it is acted on."""
        session = self._session
        if not session.current or not may_receive(session.node):
            return
        while self._to_claim and session.pending < _CLAIM_WINDOW and not self._is_full():
            task = self._to_claim.popleft()
            if self._may_claim(task):
                session.claim(task)
        if not self._to_bid and not self._bids:
            return
        self._bids = {
            task: since
            for task, since in self._bids.items()
            if session.is_pending(task) or (task not in self._m.runs and session.view.own_claims(task, self._m.me))
        }
        while self._to_bid and len(self._bids) < _BID_WINDOW and not self._is_full():
            task = self._to_bid.popleft()
            if self._may_bid(task):
                self._bids[task] = trio.current_time()
                session.bid(task)

    def wants(self, task: str) -> bool:
        """Whether a bid of ours that is in the view is still justified."""
        session, consumer, now = self._session, self._consumer, trio.current_time()
        if now - self._bids.setdefault(task, now) > _BID_TIMEOUT + consumer.grace + consumer.cleanup_timeout:
            self.leave_alone(task)
            return False
        owner = session.view.nodes.get(session.view.owner(task) or "")
        if owner is None:
            return True  # it is going: the bid is about to own the task
        if not may_receive(session.node):
            return False
        return owner.draining or (
            not owner.frozen and session.view.load(owner.identity) - 1 >= session.view.load(self._m.me)
        )

    def consents(self, task: str, heir: str) -> bool:
        """Ask the balancer whether to hand a running task over."""
        by_load = len(self._m.running) - 1 >= self._session.view.load(heir)
        return self._guarded("consent", lambda: _checked_bool(self._consumer.balancer.consent(task, heir)), by_load)

    def got(self, task: str) -> None:
        """The task is ours now."""
        self._bids.pop(task, None)

    def leave_alone(self, task: str) -> None:
        """The task was given back: do not take it again for a while, longer each time it comes back."""
        now = trio.current_time()
        _, delay = self._alone.get(task, (0.0, 0.0))
        delay = min(2 * delay, _ALONE_MOST) if delay else _ALONE_FIRST
        self._alone[task] = (now + delay, delay)
        self.tasks_changed()

    # ---- one task

    def _may_take(self, task: str) -> bool:
        return (
            not self._session.is_pending(task)
            and task not in self._m.runs
            and trio.current_time() >= self._alone.get(task, (0.0, 0.0))[0]
        )

    def _may_claim(self, task: str) -> bool:
        if task not in self._session.view.unclaimed or not self._may_take(task):
            return False
        if self._ask_again.get(task, 0.0) > trio.current_time():
            return False
        wait = self._guarded("can_claim", lambda: _checked_wait(self._consumer.balancer.can_claim(task)), 0.0)
        if 0 < wait < math.inf:
            self._ask_again[task] = trio.current_time() + wait
        return wait <= 0

    def _may_bid(self, task: str) -> bool:
        view, me = self._session.view, self._m.me
        owner = view.nodes.get(view.owner(task) or "")
        if owner is None or owner.identity == me or task not in view.tasks:
            return False
        if view.own_claims(task, me) or not self._may_take(task):
            return False
        my_load = view.load(me) + self._session.pending + 1
        return owner.draining or (not owner.frozen and view.load(owner.identity) - 1 >= my_load)

    # ---- room

    def _is_full(self) -> bool:
        session = self._session
        load = session.view.load(self._m.me) + session.pending
        capacity = session.node.capacity
        return session.free_claims <= session.pending or (capacity is not None and load >= capacity)

    def _announce_full(self) -> None:
        """Tell the others when this session cannot hold more claims, or can again."""
        session = self._session
        full = session.free_claims <= session.pending
        if full != session.node.full:
            session.announce(dataclasses.replace(session.node, full=full))

    def _guarded(self, method: str, call: Callable[[], T], otherwise: T) -> T:
        """Ask the balancer; one that raises is reported and has no opinion."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - whatever a user's balancer raises
            self._consumer.emit(BalancerFailed(self._m.me, method, error))
            return otherwise
