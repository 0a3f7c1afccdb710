"""Planner: computes which node should own which task, and acts on this node's lines of the plan."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping

import trio

from metafora_trio._model.plan import may_receive, plan
from metafora_trio._model.turns import StepInOrder
from metafora_trio._model.window import Window
from metafora_trio._running_task import RunningTask
from metafora_trio.balancers import BalancerContext
from metafora_trio.contract import Session
from metafora_trio.events import Event

from .experience import Experience
from .guarded_balancer import GuardedBalancer
from .left_alone import LeftAlone
from .notices import Notices
from .plan_timer import PlanTimer
from .removal import Removal
from .settings import ConsumerSettings
from .suspension import Suspension
from .task_run import TaskRun

__all__ = ["Planner"]

_CLAIM_WINDOW = 512
"""The maximum number of claims under way. It is large enough to fill the broker's pipeline, and small enough that most
tasks that other nodes claim in the meantime are dropped before a claim for them is sent."""
_BID_WINDOW = 256
"""The maximum number of bids under way. There are few at first, and one more for each task that a bid has got: owners
that answer no bid are not worth many, and each bid counts as load of this node."""
_BID_TIMEOUT = 30.0
"""Seconds after which an unanswered bid is withdrawn. The time that a task may take to stop is added."""
_BID_REFUSED = 10.0
"""Seconds for which other tasks of the owner move instead of one for which the balancer has refused to bid."""


class Planner:
    """Claims and bids for tasks according to the plan and the balancer, and decides which tasks to give back.

    Args:
        session: takes the requests.
        settings: the consumer's settings.
        experience: what the consumer has learned in this session and before.
        notices: what people should know about this node.
        runs: every run of this session, by task; read only.
        running: the tasks that run here and have not been told to stop, by id; read only.
        emit: reports an event.
    """

    def __init__(
        self,
        session: Session,
        settings: ConsumerSettings,
        experience: Experience,
        notices: Notices,
        *,
        runs: Mapping[str, TaskRun],
        running: Mapping[str, RunningTask],
        emit: Callable[[Event], None],
    ) -> None:
        self._session = session
        self._stuck = experience.stuck
        self._me = session.node.identity
        self._backup_delay = settings.backup_delay
        self._bid_timeout = _BID_TIMEOUT + settings.grace + settings.cleanup_timeout
        self._runs = runs
        self._running = running
        self._timer = PlanTimer(session, settle=settings.settle, rng=settings.rng)
        self._context = BalancerContext(session, running)
        self._to_claim: deque[str] = deque()
        self._to_step_in: Iterator[str] = iter(())
        self._to_bid: deque[str] = deque()
        self._bids: dict[str, float] = {}
        self._bid_window = Window(_BID_WINDOW)
        self._unclaimed_since: dict[str, float] = {}
        self._probation = experience.probation
        self._held_back: Collection[str] = ()
        self._left_alone = LeftAlone(session, experience.lethal_tasks, notices, emit)
        self._suspension = Suspension(session, experience.failures, settings.capacity, notices, emit)
        self._ask_again: dict[str, float] = {}
        self._refused_bids: dict[str, float] = {}  # until when
        self._balance_asked = False
        self._removal = Removal(session, backup_delay=settings.backup_delay)
        self._balancer = GuardedBalancer(settings.balancer, self._context, self._me, emit)
        self.view_changed()

    # ---- when to plan

    def view_changed(self) -> None:
        """Plan soon, because the whole view is new."""
        self.nodes_changed()
        self._left_alone.look_again()

    def tasks_changed(self, tasks: Collection[str] = ()) -> None:
        """Plan soon, because tasks have been added, removed or changed hands: these, or some that are not named."""
        self._left_alone.look_at_tasks(tasks)
        self._timer.tasks_changed()

    def nodes_changed(self) -> None:
        """Plan soon, because nodes joined, left or announced a change."""
        self._look_at_nodes()
        if self._timer.nodes_changed():  # a node has joined, and the last plan gives it nothing
            self._to_claim.clear()
            self._to_step_in = iter(())
            self._to_bid.clear()

    def _look_at_nodes(self) -> None:
        now = trio.current_time()
        self._left_alone.look_at_nodes()
        self._probation.look(self._session.view.nodes, now)
        self._held_back = self._probation.held_back(now)
        losing = self._probation.losing(self._me)
        if losing != self._session.node.losing:
            self._session.announce(dataclasses.replace(self._session.node, losing=losing))

    def balance(self) -> None:
        """Plan at once, as a command asks. A frozen node then gives back what its balancer releases."""
        self._balance_asked = True
        self._timer.hurry()

    async def wait_due(self) -> None:
        """Wait until it is time to plan. Then call `plan` without an await in between."""
        now = trio.current_time()
        times = [*self._left_alone.ends(), *self._ask_again.values(), self._suspension.trial_at]
        await self._timer.wait_due(min((time for time in times if time > now), default=math.inf))

    # ---- the plan

    def plan(self) -> list[str]:
        """Decide which tasks to claim and bid for. `refill` then sends the requests.

        Returns:
            The tasks that the balancer gives back.
        """
        session, me = self._session, self._me
        node = session.node
        view = session.view
        now = trio.current_time()
        self._unclaimed_since = {task: self._unclaimed_since.get(task, now) for task in view.unclaimed}
        self._look_at_nodes()
        self._ask_again = {task: at for task, at in self._ask_again.items() if task in view.unclaimed and at > now}
        self._refused_bids = {task: at for task, at in self._refused_bids.items() if task in view.tasks and at > now}
        self._to_claim.clear()
        self._to_step_in = iter(())
        self._to_bid.clear()
        if not session.current:
            return []
        balance_asked, self._balance_asked = self._balance_asked, False
        self._removal.plan(self._unclaimed_since)
        if not may_receive(node):
            return self._balancer.release() if balance_asked and not node.draining else []
        self._suspension.look(self._runs)
        bids = [task for task in self._bids if session.is_pending(task)]
        claims = [task for task in view.unclaimed if session.is_pending(task)] if session.pending else []
        passed_over = self._passed_over()
        heirs = plan(
            view,
            me,
            pending_claims=frozenset(claims).difference(view.tombstones),
            pending_bids=frozenset(bids),
            refused={*self._left_alone, *self._refused_bids},
            held_back=passed_over,
            even=self._balancer.even,
        )
        mine = [task for task, heir in heirs.items() if heir == me]
        self._to_claim.extend(task for task in mine if task in view.unclaimed)
        self._to_step_in = self._late(self._unclaimed_since, heirs, passed_over, now)
        self._context.planned = [task for task in mine if task not in view.unclaimed]
        self._to_bid.extend(self._balancer.steal())
        return self._balancer.release()

    def _passed_over(self) -> Collection[str]:
        """Return the nodes that get no more tasks now: on probation, or just joined, unless there are no others."""
        passed_over = {*self._held_back, *self._timer.settling()}
        others = (n for n in self._session.view.nodes.values() if may_receive(n) and not n.full)
        return passed_over if any(n.identity not in passed_over for n in others) else self._held_back

    def _late(
        self, unclaimed_since: Mapping[str, float], heirs: Mapping[str, str], passed_over: Collection[str], now: float
    ) -> Iterator[str]:
        """Yield unclaimed tasks for which it is this node's turn to step in.

        If the first choice does not claim a task, the next node in order steps in after each `backup_delay`. The delay
        begins when the view shows that the last owner's claim is gone, since only then is the task unclaimed. There may
        be a hundred thousand such tasks, so `refill` looks at no more of them than this node can claim.
        """
        order = StepInOrder(
            n.identity
            for n in self._session.view.nodes.values()
            if may_receive(n) and not n.full and n.identity not in passed_over
        )
        for task, since in unclaimed_since.items():
            turn = int((now - since) // self._backup_delay)
            if turn and (first := heirs.get(task)) != self._me and order.node_at(task, turn, first=first) == self._me:
                yield task

    def refill(self) -> None:
        """Continue with the last plan as far as the windows allow. Each line is checked again before it is acted on."""
        session = self._session
        if not session.current:
            return
        self._removal.refill()
        if not may_receive(session.node):
            return
        while session.pending < _CLAIM_WINDOW and not self._is_full():
            task = self._to_claim.popleft() if self._to_claim else next(self._to_step_in, None)
            if task is None:
                break
            if self._may_claim(task):
                self._suspension.take(task)
                session.claim(task)
        if not self._to_bid and not self._bids:
            return
        self._bids = {
            task: since
            for task, since in self._bids.items()
            if session.is_pending(task) or (task not in self._runs and session.view.own_claims(task, self._me))
        }
        # A task that takes long to stop, or never does, must not keep this node from bidding for others.
        slow = sum(self._is_being_handed_over(task) for task in self._bids) if self._to_bid else 0
        while self._to_bid and len(self._bids) - slow < self._bid_window.size and not self._is_full():
            task = self._to_bid.popleft()
            if self._may_bid(task):
                self._bids[task] = trio.current_time()
                self._suspension.take(task)
                session.bid(task)

    async def run(self) -> None:
        """Search long unclaimed tasks for tombstones that no event has shown, and let tasks start. Runs forever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._removal.search)
            nursery.start_soon(self._suspension.run)

    async def wait_turn(self) -> None:
        """Wait until one more task may start. Not a checkpoint if it may start now."""
        await self._suspension.wait_turn()

    def wants(self, task: str) -> bool:
        """Return whether a bid of this node that is in the view is still justified."""
        session, now = self._session, trio.current_time()
        since = self._bids.setdefault(task, now)
        owner = session.view.nodes.get(session.view.owner(task) or "")
        able = may_receive(session.node) and not self.refuses(task)
        if able and self._is_being_handed_over(task):
            return True  # the owner is stopping it for this bid
        if now - since > self._bid_timeout:
            self.leave_alone(task)
            self._bid_window.slow(since, now)
            return False
        if owner is None:
            return True  # the owner has left: the bid will soon own the task
        if not able:
            return False
        return owner.draining or (
            not owner.frozen and session.view.load(owner.identity) - 1 >= session.view.load(self._me)
        )

    def _is_being_handed_over(self, task: str) -> bool:
        """Return whether the owner says that it has been stopping the task for another node for some seconds."""
        owner = self._session.view.nodes.get(self._session.view.owner(task) or "")
        return owner is not None and owner.hands_over(task)

    def consents(self, task: str, heir: str) -> bool:
        """Ask the balancer whether to hand a running task over to the heir, unless that is on probation."""
        if heir in self._held_back:
            return False
        by_load = len(self._running) - 1 >= self._session.view.load(heir)
        return self._balancer.consents(task, heir, otherwise=by_load)

    def refuses(self, task: str) -> bool:
        """Return whether this node must not start a task now: one task after another fails here, it ends nodes, an
        earlier run of it has not closed, or this node has claimed it only to remove it."""
        return (
            not self._suspension.may_run(task)
            or self._left_alone.is_lethal(task)
            or task in self._stuck
            or self._removal.holds(task)
        )

    def got(self, task: str) -> None:
        """Note that this node owns the task now."""
        if (since := self._bids.pop(task, None)) is not None:
            self._bid_window.answered(since, trio.current_time())

    def started(self, task: str) -> None:
        """Note that a task's scope has opened here."""
        self._suspension.start(task)

    def told_to_stop(self, task: str) -> None:
        """Note that a running task was told to stop."""
        self._suspension.told_to_stop(task)

    def ended(self, run: TaskRun) -> bool:
        """Note how a run has ended. Returns True if this node takes no more tasks because of that."""
        return self._suspension.end(run)

    def leave_alone(self, task: str) -> None:
        """Do not take a task again for a while after giving it back; the time doubles with each repetition."""
        self._left_alone.give_back(task)
        self.tasks_changed()

    # ---- one task

    def _may_take(self, task: str) -> bool:
        return not (
            self._session.is_pending(task) or task in self._runs or task in self._stuck or task in self._left_alone
        )

    def _may_claim(self, task: str) -> bool:
        view = self._session.view
        if task not in view.unclaimed or task in view.tombstones or not self._may_take(task):
            return False
        if self._ask_again.get(task, 0.0) > trio.current_time():
            return False
        wait = self._balancer.seconds_until_claim(task)
        if 0 < wait < math.inf:
            self._ask_again[task] = trio.current_time() + wait
        return wait <= 0

    def _may_bid(self, task: str) -> bool:
        view, me = self._session.view, self._me
        owner = view.nodes.get(view.owner(task) or "")
        if owner is None or owner.identity == me or task not in view.tasks or task in view.tombstones:
            return False
        if view.own_claims(task, me) or not self._may_take(task):
            return False
        my_load = view.load(me) + self._session.pending + 1
        if not owner.draining and (owner.frozen or view.load(owner.identity) - 1 < my_load):
            return False
        now = trio.current_time()
        if self._refused_bids.get(task, 0.0) > now:
            return False
        wait = self._balancer.seconds_until_claim(task)
        if wait > 0:
            self._refused_bids[task] = now + min(wait, _BID_REFUSED)
        return wait <= 0

    # ---- capacity

    def _is_full(self) -> bool:
        session = self._session
        load = session.view.load(self._me) + session.pending
        capacity = session.node.capacity
        if session.free_claims <= session.pending or not self._suspension.may_take():
            return True
        return capacity is not None and load >= capacity
