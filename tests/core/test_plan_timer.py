"""PlanTimer: soon after a change, at once after a leave, and rarely if nothing happens or plans are slow."""

from __future__ import annotations

import math
import random
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from metafora_trio import NodeInfo
from metafora_trio._model.view import NodeAdded, NodeRemoved
from metafora_trio._node.plan_timer import PlanTimer
from metafora_trio.contract import ClusterView, Session


class QuietSession:
    """The part of a session that a timer reads, with no events to apply."""

    def __init__(self) -> None:
        self.view = ClusterView()
        self.quiet = True
        self.node = NodeInfo("me.1")


def make_timer(session: QuietSession) -> PlanTimer:
    return PlanTimer(cast(Session, session), settle=0.0, rng=random.Random(0))


async def seconds_until_due(timer: PlanTimer, *, within: float = math.inf) -> float:
    began = trio.current_time()
    await timer.wait_due(began + within)
    return trio.current_time() - began


async def test_soon_after_a_change(autojump_clock: MockClock) -> None:
    """A plan is due 0.15 to 0.35 s after a change, at random, so nodes do not all act on the same view."""
    timer = make_timer(QuietSession())
    delays = []
    for _ in range(20):
        timer.tasks_changed()
        delays.append(await seconds_until_due(timer))
    assert all(0.15 <= delay <= 0.351 for delay in delays)
    assert max(delays) - min(delays) > 0.1


async def test_rarely_if_nothing_happens(autojump_clock: MockClock) -> None:
    """Without a change, a plan is due when the caller says, or else after three seconds, plus the random delay."""
    timer = make_timer(QuietSession())
    assert await seconds_until_due(timer) == pytest.approx(3.25, abs=0.11)
    assert await seconds_until_due(timer, within=1.0) == pytest.approx(1.25, abs=0.11)


async def test_at_once_after_a_leave(autojump_clock: MockClock) -> None:
    """When a node leaves, a plan is due without a delay, even if the last plan was slow."""
    session = QuietSession()
    session.view.apply(NodeAdded(NodeInfo("a.1")))
    timer = make_timer(session)
    timer.nodes_changed()
    await timer.wait_due(math.inf)
    autojump_clock.jump(0.5)  # a slow plan
    session.view.apply(NodeRemoved("a.1"))
    timer.nodes_changed()
    assert await seconds_until_due(timer) == 0


async def test_joins_settle_and_a_leave_does_not_wait_for_them(autojump_clock: MockClock) -> None:
    """A plan at once after a leave passes over the nodes that have just joined. They get their tasks once settled."""
    session = QuietSession()
    session.view.apply(NodeAdded(NodeInfo("a.1")))
    session.view.apply(NodeAdded(session.node))
    timer = PlanTimer(cast(Session, session), settle=2.0, rng=random.Random(0))
    timer.nodes_changed()
    assert set(timer.settling()) == {"me.1"}
    assert await seconds_until_due(timer) == pytest.approx(2.0)
    assert set(timer.settling()) == set()
    session.view.apply(NodeAdded(NodeInfo("b.1")))
    timer.nodes_changed()
    await trio.sleep(0.5)
    session.view.apply(NodeRemoved("a.1"))
    timer.nodes_changed()
    assert await seconds_until_due(timer) == 0
    assert set(timer.settling()) == {"b.1"}
    assert await seconds_until_due(timer) == pytest.approx(1.5)  # nothing else has changed
    assert set(timer.settling()) == set()


async def test_many_joins_delay_a_plan_by_four_times_the_settling_at_most(autojump_clock: MockClock) -> None:
    session = QuietSession()
    timer = PlanTimer(cast(Session, session), settle=1.0, rng=random.Random(0))
    async with trio.open_nursery() as nursery:

        async def join() -> None:
            for number in range(9):
                session.view.apply(NodeAdded(NodeInfo(f"n{number}.1")))
                timer.nodes_changed()
                await trio.sleep(0.7)

        nursery.start_soon(join)
        await trio.testing.wait_all_tasks_blocked()
        assert await seconds_until_due(timer) == pytest.approx(4.0)
        assert set(timer.settling()) == set()


async def test_planning_takes_at_most_a_tenth_of_the_time(autojump_clock: MockClock) -> None:
    """After a plan that took half a second, the next one is due five seconds later."""
    timer = make_timer(QuietSession())
    await timer.wait_due(math.inf)
    autojump_clock.jump(0.5)  # a slow plan
    timer.tasks_changed()
    assert await seconds_until_due(timer) == pytest.approx(5.0)
