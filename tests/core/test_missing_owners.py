"""Tasks that are claimed by something that is not a node are reported, by one node."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from metafora_trio.contract import ClaimKind
from metafora_trio.events import OwnerMissing
from tests.support.nodes import Node, open_cluster

T = 10.0
GHOST = "ghost.1"


def reports(node: Node) -> list[OwnerMissing]:
    return [event for event in node.take_events() if isinstance(event, OwnerMissing)]


def notices(node: Node) -> tuple[str, ...]:
    assert node.consumer._membership is not None
    return node.consumer._membership.session.node.notices


async def test_an_owner_that_is_no_node(autojump_clock: MockClock) -> None:
    """The first node by name reports it after two session timeouts, and says so until it is gone."""
    async with open_cluster(session_timeout=T) as cluster:
        b = await cluster.start("b", settle=60.0)
        a = await cluster.start("a", settle=60.0)
        store = cluster.coordinator._store
        tasks = [f"t{number}" for number in range(5)]
        await cluster.submit(*tasks)
        for task in tasks:
            store.add_claim(task, GHOST, ClaimKind.CLAIM)
        await trio.sleep(2 * T - 1)
        assert reports(a) == []
        await trio.sleep(T + 1)
        assert reports(a) == [OwnerMissing(a.identity, GHOST, tuple(tasks))]
        assert notices(a) == (f"claimed by {GHOST}, which is not a node: t0, t1, t2 and 2 more",)
        assert (reports(b), notices(b)) == ([], ())
        for task in tasks[1:]:
            cluster.remove_claim(task)
        await trio.sleep(T)
        assert (reports(a), notices(a)) == ([], (f"claimed by {GHOST}, which is not a node: t0",))
        cluster.coordinator.partition(a.identity)
        await trio.sleep(1)
        cluster.remove_claim("t0")
        cluster.coordinator.heal(a.identity)
        await cluster.wait_running(*tasks)
        await trio.sleep(T)
        assert (reports(a), notices(a)) == ([], ())


async def test_a_node_that_is_cut_off_looks_at_nothing(autojump_clock: MockClock) -> None:
    async with open_cluster(session_timeout=600.0) as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        cluster.coordinator.partition(node.identity)
        await trio.sleep(310)
        assert reports(node) == []
