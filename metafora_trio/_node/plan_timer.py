"""PlanTimer: decides when to plan: soon after a change, late while joins settle, and at once after a node has left.

Otherwise a node that crashes and joins again and again would delay the failover of all others.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import trio

from metafora_trio._trio_util import AsyncBool
from metafora_trio.contract import Session

__all__ = ["PlanTimer"]

_TICK = 3.0
"""The most seconds between two plans if nothing happens: a safety net."""
_DEBOUNCE = (0.15, 0.35)
"""Range of the random delay from a change to the plan, in seconds. Otherwise all nodes would act on the same view."""
_COST_FACTOR = 10
"""The delay before a plan is at least this many times the duration of the last one. Planning therefore takes at most a
tenth of the time."""
_SETTLE_CAP = 4
"""A series of joins delays the plan by at most this many times `settle`."""


class PlanTimer:
    """Waits for the time of the next plan.

    Args:
        session: its view shows which nodes join and leave, and must be quiet before a plan.
        settle: seconds to wait after a join, since more nodes may be joining.
        rng: the source of jitter.
    """

    def __init__(self, session: Session, *, settle: float, rng: random.Random) -> None:
        self._session = session
        self._settle = settle
        self._rng = rng
        self._wanted = AsyncBool()
        self._urgent = AsyncBool()
        self._settled_early = AsyncBool()
        self._known_nodes: set[str] = set()
        self._joined_at: dict[str, float] = {}
        self._settled_at = self._settle_began = trio.current_time()
        self._due_at: float | None = None

    def tasks_changed(self) -> None:
        """Plan soon, because tasks have been added, removed or changed hands."""
        if not self._wanted.value:
            self._wanted.value = True

    def nodes_changed(self) -> bool:
        """Plan soon, because nodes joined, left or announced a change. Let joins settle; plan at once after a leave.

        Returns:
            True if a node has joined.
        """
        now = trio.current_time()
        nodes = set(self._session.view.nodes)
        joined, left = nodes - self._known_nodes, self._known_nodes - nodes
        if joined:
            # At first this node joins the others.
            self._joined_at.update(dict.fromkeys(joined if self._known_nodes else {self._session.node.identity}, now))
            if now >= self._settled_at:
                self._settle_began = now
            self._settled_at = min(now + self._settle, self._settle_began + _SETTLE_CAP * self._settle)
        for identity in left:
            self._joined_at.pop(identity, None)
            self._urgent.value = self._settled_early.value = True
        self._known_nodes = nodes
        self.tasks_changed()
        return bool(joined)

    def settling(self) -> Collection[str]:
        """Return the nodes that have joined just now. A plan at once after a leave gives them nothing yet: otherwise
        tasks would wait for nodes that have not planned, or that are gone again."""
        now = trio.current_time()
        if now >= self._settled_at:
            self._joined_at.clear()
        self._joined_at = {identity: at for identity, at in self._joined_at.items() if now < at + self._settle}
        return self._joined_at.keys()

    def hurry(self) -> None:
        """Plan at once, even while joins settle."""
        self._urgent.value = True
        self._settled_early.value = True
        self.tasks_changed()

    async def wait_due(self, at: float) -> None:
        """Wait until it is time to plan. The caller must then plan, without an await, before it calls this again.

        The time between the two calls is taken as the cost of the plan.

        Args:
            at: when to plan if nothing happens, in Trio time. If that is more than one tick away, plan after one tick.
        """
        cost = trio.current_time() - self._due_at if self._due_at is not None else 0.0
        with trio.move_on_after(max(0.01, min(_TICK, at - trio.current_time()))):
            await self._wanted.wait_value(True)
        with trio.move_on_after(max(self._rng.uniform(*_DEBOUNCE), _COST_FACTOR * cost)):
            await self._urgent.wait_value(True)
        while trio.current_time() < self._settled_at and not self._settled_early.value:  # a join may postpone it
            with trio.move_on_at(self._settled_at):
                await self._settled_early.wait_value(True)
        with trio.move_on_after(_TICK):
            while not self._session.quiet:  # noqa: ASYNC110 - bounded and rare: a backlog lasts milliseconds
                await trio.sleep(0.01)
        self._urgent.value = self._settled_early.value = False
        self._due_at = trio.current_time()
        self._wanted.value = self._due_at < self._settled_at  # then plan again, with the nodes that have joined
