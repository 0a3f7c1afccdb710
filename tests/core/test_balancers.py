"""Balancers: the two that are included, those of users, and those that fail."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Balancer, Consumer, MemoryCoordinator, NodeInfo, Task, open_client
from metafora_trio._model.view import NodeAdded
from metafora_trio.balancers import BalancerContext, FairBalancer, GreedyBalancer
from metafora_trio.contract import ClusterView
from metafora_trio.events import BalancerFailed
from tests.support.nodes import Cluster, Node, open_cluster, run_for_ever, spread


class Member:
    """The part of a session that a context reads."""

    def __init__(self) -> None:
        self.view = ClusterView()
        self.node = NodeInfo("a.1")


def test_context() -> None:
    """A balancer sees the live view, its node as last announced, and the tasks planned for this node."""
    member = Member()
    context = BalancerContext(member, {})
    balancer = FairBalancer()
    balancer.attach(context)
    member.view.apply(NodeAdded(member.node))
    assert balancer.context.view.nodes == {"a.1": member.node}
    assert balancer.context.node.identity == "a.1"
    context.planned = ["t"]
    assert list(balancer.steal()) == ["t"]
    assert list(balancer.release()) == []
    assert balancer.can_claim("t") is True


async def test_greedy_keeps_its_tasks(autojump_clock: MockClock) -> None:
    """A greedy node keeps its tasks when another node joins, and hands them over only when it leaves."""
    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=GreedyBalancer())
        await cluster.submit_until_running(*(f"t{i}" for i in range(6)))
        b = await cluster.start("b", balancer=GreedyBalancer())
        await trio.sleep(60)
        assert len(a.tasks) == 6
        await a.consumer.drain()
        await cluster.wait_until(lambda: len(b.tasks) == 6)
        assert set(cluster.starts.values()) == {2}


async def test_context_is_new_for_each_session(autojump_clock: MockClock) -> None:
    """After a lost session, the balancer is attached again, with a context of the new session."""

    class Counting(FairBalancer):
        def __init__(self) -> None:
            self.nodes: list[str] = []

        def attach(self, context: BalancerContext) -> None:
            super().attach(context)
            self.nodes.append(context.node.identity)

    async with open_cluster() as cluster:
        balancer = Counting()
        node = await cluster.start("a", balancer=balancer)
        first = node.identity
        cluster.coordinator.expire(first)
        await trio.sleep(5)
        assert balancer.nodes == [first, node.identity]


async def test_can_claim_decides(autojump_clock: MockClock) -> None:
    """A node claims the tasks that its balancer allows, at once or after the delay that it returns, and no others."""

    class Picky(FairBalancer):
        def can_claim(self, task: str) -> bool | float:
            if task.startswith("late"):
                return True if trio.current_time() >= 20 else 20 - trio.current_time()
            return task.startswith("mine")

    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=Picky())
        await cluster.submit("mine", "late", "other")
        await trio.sleep(19)
        assert a.tasks == {"mine"}
        await trio.sleep(2)
        assert a.tasks == {"mine", "late"}
        b = await cluster.start("b")
        await cluster.wait_until(lambda: "other" in b.tasks)


async def test_steal_decides(autojump_clock: MockClock) -> None:
    """A node bids for the tasks that its balancer names, as long as that evens out the loads."""

    class Wants(FairBalancer):
        def steal(self) -> list[str]:
            return ["t3", "t5", "nothing", "t0"]

    async with open_cluster() as cluster:
        await cluster.start("a")
        await cluster.submit_until_running(*(f"t{i}" for i in range(6)))
        b = await cluster.start("b", balancer=Wants())
        await cluster.wait_until(lambda: len(b.tasks) == 3)
        assert b.tasks == {"t3", "t5", "t0"}


async def test_release_decides(autojump_clock: MockClock) -> None:
    """A node gives back the tasks that its balancer names; another node takes them."""

    class Tired(FairBalancer):
        def release(self) -> Iterable[str]:
            return [task for task in self.context.running if task.startswith("heavy")] + ["unknown"]

        def can_claim(self, task: str) -> bool:
            return not task.startswith("heavy") or len(self.context.view.nodes) == 1

    async with open_cluster() as cluster:
        b = await cluster.start("b", balancer=Tired())
        await cluster.submit("heavy")
        await cluster.wait_until(lambda: cluster.starts["heavy"] == 1)
        a = await cluster.start("a")
        await cluster.wait_until(lambda: a.tasks == {"heavy"})
        assert "TaskStopping heavy released" in b.told()


async def test_consent_decides(autojump_clock: MockClock) -> None:
    """A node hands a task over only with its balancer's consent, unless it drains."""

    class Keeps(FairBalancer):
        def consent(self, task: str, heir: str) -> bool:
            return task != "t0" and super().consent(task, heir)

    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=Keeps())
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        b = await cluster.start("b")
        await cluster.wait_until(lambda: spread([a, b]) == 0 and len(cluster.running) == 4, within=200)
        assert "t0" in a.tasks
        await a.consumer.drain()
        await cluster.wait_until(lambda: "t0" in b.tasks)


async def test_can_claim_decides_on_bids(autojump_clock: MockClock) -> None:
    """A node bids only for tasks that its balancer allows. Other tasks of the same owner move instead."""

    class Picky(FairBalancer):
        def can_claim(self, task: str) -> bool | float:
            if task.startswith("late"):
                return True if trio.current_time() >= 300 else 300 - trio.current_time()
            return task.startswith("mine")

    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running(*(f"other{i}" for i in range(30)), "mine0", "mine1", "late")
        b = await cluster.start("b", balancer=Picky())
        await cluster.wait_until(lambda: b.tasks == {"mine0", "mine1"}, within=200)
        assert trio.current_time() < 280
        await cluster.wait_until(lambda: b.tasks == {"mine0", "mine1", "late"}, within=320)
        assert trio.current_time() >= 300
        assert set(cluster.starts.values()) == {1, 2}
        assert len(a.tasks) == 30


async def test_a_refused_bid_is_not_asked_for_at_once(autojump_clock: MockClock) -> None:
    """If a balancer names tasks to steal and then refuses them, it is asked again only after ten seconds."""
    asked: list[float] = []

    class Undecided(FairBalancer):
        def steal(self) -> list[str]:
            return ["t0", "t0"]

        def can_claim(self, task: str) -> bool:
            asked.append(trio.current_time())
            return False

    async with open_cluster() as cluster:
        await cluster.start("a")
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        await cluster.start("b", balancer=Undecided())
        await trio.sleep(60)
        assert len(asked) > 3
        assert all(later - before >= 10 for before, later in itertools.pairwise(asked))


async def test_node_that_refuses_everything_gets_nothing(autojump_clock: MockClock) -> None:
    """A node whose balancer refuses every task gets none, neither by claims nor by bids."""

    class Never(FairBalancer):
        def can_claim(self, task: str) -> bool:
            return False

    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running(*(f"t{i}" for i in range(10)))
        b = await cluster.start("b", balancer=Never())
        await trio.sleep(120)
        assert (len(a.tasks), len(b.tasks)) == (10, 0)
        assert set(cluster.starts.values()) == {1}


# ---- balancers that fail


async def two_nodes(cluster: Cluster, balancer: Balancer) -> tuple[Node, Node]:
    """Start a node with this balancer, and then a fair one. Wait until both run the same number of tasks."""
    a = await cluster.start("a", balancer=balancer)
    await cluster.submit_until_running("t0", "t1", "t2", "t3")
    b = await cluster.start("b")
    await cluster.wait_until(lambda: spread([a, b]) == 0 and len(cluster.running) == 4)
    return a, b


def raises(*args: object) -> Any:
    raise ZeroDivisionError("mine")


def exits(*args: object) -> Any:
    sys.exit(3)


WRONG: dict[str, tuple[str, Any, type[BaseException]]] = {
    "attach exits": ("attach", exits, SystemExit),
    "can_claim exits": ("can_claim", exits, SystemExit),
    "even: text": ("even", "yes", TypeError),
    "even raises": ("even", property(raises), ZeroDivisionError),
    "attach raises": ("attach", raises, ZeroDivisionError),
    "can_claim raises": ("can_claim", raises, ZeroDivisionError),
    "can_claim: unprintable": ("can_claim", lambda self, task: object(), TypeError),
    "can_claim: text": ("can_claim", lambda self, task: "yes", TypeError),
    "can_claim: None": ("can_claim", lambda self, task: None, TypeError),
    "can_claim: negative": ("can_claim", lambda self, task: -1, ValueError),
    "can_claim: not a number": ("can_claim", lambda self, task: math.nan, ValueError),
    "steal raises": ("steal", raises, ZeroDivisionError),
    "steal: None": ("steal", lambda self: None, TypeError),
    "steal: unhashable": ("steal", lambda self: [["t1"]], TypeError),
    "release raises": ("release", raises, ZeroDivisionError),
    "release: a number": ("release", lambda self: 3, TypeError),
    "release: unhashable": ("release", lambda self: [{}], TypeError),
    "consent raises": ("consent", raises, ZeroDivisionError),
    "consent: text": ("consent", lambda self, task, heir: "no", TypeError),
}


@pytest.mark.parametrize("case", WRONG)
async def test_failing_balancer_has_no_opinion(case: str, autojump_clock: MockClock) -> None:
    """An exception or an invalid answer of a balancer is reported, and the node continues with a fair one's answer."""
    method, wrong, kind = WRONG[case]
    balancer = type("Wrong", (FairBalancer,), {method: wrong})()
    async with open_cluster() as cluster:
        a, _ = await two_nodes(cluster, balancer)
        failures = [event for event in a.take_events() if isinstance(event, BalancerFailed)]
        mine = {type(failure.error) for failure in failures if failure.method == method}
        assert mine == {kind}


async def test_keyboard_interrupt_is_meant_for_the_program(autojump_clock: MockClock) -> None:
    class Interrupted(FairBalancer):
        def can_claim(self, task: str) -> bool:
            raise KeyboardInterrupt

    coordinator = MemoryCoordinator()
    async with open_client(coordinator) as client:
        await client.submit(Task("t"))
        with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
            await Consumer(coordinator, run_for_ever, balancer=Interrupted()).run()


async def test_can_claim_after_infinite_delay(autojump_clock: MockClock) -> None:
    """An infinite delay means no. The balancer is asked again at the next plan."""

    class Later(FairBalancer):
        answer: float = math.inf

        def can_claim(self, task: str) -> float:
            return self.answer

    async with open_cluster() as cluster:
        balancer = Later()
        node = await cluster.start("a", balancer=balancer)
        await cluster.submit("t")
        await trio.sleep(20)
        assert node.tasks == set()
        balancer.answer = 0.0
        await cluster.wait_until(lambda: node.tasks == {"t"}, within=4)
