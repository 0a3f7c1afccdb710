"""MemoryCoordinator keeps the contract, with and without delays, and its faults behave as documented."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

import metafora_trio as mt
from metafora_trio import contract
from metafora_trio._memory.coordinator import from_url
from metafora_trio.testing.conformance import CoordinatorConformance, eventually
from metafora_trio.testing.conformance._subject import get_claim
from tests.support.subjects import memory_subject


async def submit(coordinator: mt.MemoryCoordinator, *ids: str) -> None:
    async with mt.open_client(coordinator) as client:
        await client.submit(mt.Task(id) for id in ids)


@pytest.mark.parametrize("latency", [0.0, 0.3], ids=["at-once", "delayed"])
@pytest.mark.parametrize("check", [name for name in dir(CoordinatorConformance) if name.startswith("test_")])
async def test_conformance(check: str, latency: float, autojump_clock: trio.testing.MockClock) -> None:
    """Run the tests of the conformance suite one by one, since only an argument of the test can set the clock."""
    await getattr(CoordinatorConformance(), check)(memory_subject(latency=latency))


# ---- faults on demand


async def test_expired_while_it_works(autojump_clock: trio.testing.MockClock) -> None:
    """The claims go at once, the body is cancelled with a reason, and its later requests are ignored."""
    coordinator = mt.MemoryCoordinator()
    await submit(coordinator, "t")
    seen: list[object] = []

    async def node() -> None:
        async with coordinator.open_session(mt.NodeInfo("a")) as a:
            claim = await get_claim(a, "t")
            coordinator.expire(a.node.identity)
            seen.append(a.current)
            seen.append(a.lease.end - trio.current_time())
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                seen.append("the session has expired" in str(cancelled))
                a.finish(claim, mt.TaskState(mt.StateName.COMPLETED))
                raise

    async with coordinator.open_session(mt.NodeInfo("watcher")) as watcher:
        with pytest.raises(mt.SessionLost, match=r"node (a\.\d+) has ended") as lost:
            await node()
        await eventually(watcher, lambda it: "t" in it.view.unclaimed)
        assert seen == [False, 0, True]
        with pytest.raises(mt.NodeNotFound):
            coordinator.expire(str(lost.value).split()[5])


async def test_crash(autojump_clock: trio.testing.MockClock) -> None:
    """Requests in flight or made after the crash have no effect, and the claims go when the body has ended."""
    coordinator = mt.MemoryCoordinator()
    await submit(coordinator, "t")
    async with coordinator.open_session(mt.NodeInfo("watcher")) as watcher:
        with trio.CancelScope() as process:
            async with coordinator.open_session(mt.NodeInfo("a")) as a:
                claim = await get_claim(a, "t", seen_by=[watcher])
                a.finish(claim, mt.TaskState(mt.StateName.COMPLETED))  # in flight when the node crashes
                coordinator.crash(a.node.identity)
                process.cancel()
                a.release(claim)
                a.claim("t")
                a.announce(a.node)
                coordinator.heal(a.node.identity)  # has no effect on a crashed node
                assert (a.current, a.outstanding, a.pending, a.is_leaving(claim)) == (False, 0, 0, False)
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)
                assert watcher.view.head("t") == claim
        await eventually(watcher, lambda it: "t" in it.view.unclaimed)
        assert list(watcher.view.nodes) == [watcher.node.identity]


async def test_partition(autojump_clock: trio.testing.MockClock) -> None:
    """Requests, events and reads wait; on healing, the session resyncs into a new view."""
    coordinator = mt.MemoryCoordinator(latency=0.1)
    await submit(coordinator, "t1", "t2")
    async with coordinator.open_session(mt.NodeInfo("a")) as a, coordinator.open_session(mt.NodeInfo("b")) as b:
        a.claim("t1")
        coordinator.partition(a.node.identity)
        old = a.view
        await get_claim(b, "t2")
        await trio.sleep(60)
        assert not a.current
        assert a.is_pending("t1")
        assert (a.view.head("t2"), b.view.head("t1")) == (None, None)
        a.take_changes()
        healed: list[str] = []

        async def read() -> None:
            assert await a.read("t1") == contract.StoredTask({})
            healed.append("read")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            healed.append("healed")
            coordinator.heal(a.node.identity)
            assert not a.current  # not before the new view is live
            await a.wait_changed()
            await eventually(a, lambda it: it.current)
        assert healed == ["healed", "read"]
        assert a.view is not old
        assert a.view.owner("t2") == b.node.identity
        await eventually(a, lambda it: it.outstanding == 0)
        assert a.view.owner("t1") == a.node.identity
        await eventually(b, lambda it: it.view.owner("t1") == a.node.identity)


async def test_resync_reports_everything(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    await submit(coordinator, "t1", "t2")
    async with coordinator.open_client() as client, coordinator.open_session(mt.NodeInfo("a")) as a:
        await client.delete(["t2"])
        a.claim("t1")
        await eventually(a, lambda it: it.view.head("t1") and it.outstanding == 0)
        await trio.testing.wait_all_tasks_blocked()
        a.take_changes()
        coordinator.partition(a.node.identity)
        coordinator.heal(a.node.identity)
        await a.wait_changed()
        assert a.take_changes().everything
        assert (a.view.tasks, a.view.owner("t1")) == ({"t1": False, "t2": True}, a.node.identity)
        assert a.current
        assert a.quiet


# ---- the lease


async def test_without_session_timeout_the_lease_is_infinite(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    async with coordinator.open_session(mt.NodeInfo("a")) as a:
        assert (a.lease.finite, a.session_timeout, a.watched) == (False, math.inf, False)
        coordinator.partition(a.node.identity)
        await trio.sleep(10_000)


async def test_lease_is_renewed_while_connected(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator(session_timeout=12.0)
    async with coordinator.open_session(mt.NodeInfo("a")) as a:
        assert a.lease.cancel_at == trio.current_time() + 6
        await trio.sleep(100)
        assert 5 <= a.lease.cancel_at - trio.current_time() <= 6
        coordinator.partition(a.node.identity)
        await trio.sleep_until(a.lease.cancel_at - 0.01)
        coordinator.heal(a.node.identity)  # at the last moment
        await trio.sleep(100)


async def test_a_long_partition_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    """The body is cancelled first, then the lease ends, and only then does the broker remove the claims."""
    coordinator = mt.MemoryCoordinator(session_timeout=12.0)
    await submit(coordinator, "t")
    times: dict[str, float] = {}

    async def node(watcher: contract.Session) -> None:
        async with coordinator.open_session(mt.NodeInfo("a")) as a:
            await get_claim(a, "t")
            coordinator.partition(a.node.identity)
            start = trio.current_time()
            try:
                await trio.sleep_forever()
            finally:
                times["cancelled"] = trio.current_time() - start
                times["lease end"] = a.lease.end - start
                with trio.CancelScope(shield=True):
                    await eventually(watcher, lambda it: "t" in it.view.unclaimed)
                times["claim gone"] = trio.current_time() - start
                coordinator.heal(a.node.identity)

    async with coordinator.open_session(mt.NodeInfo("watcher")) as watcher:
        with pytest.raises(mt.SessionLost):
            await node(watcher)
    assert times == {
        "cancelled": pytest.approx(6, abs=0.1),
        "lease end": pytest.approx(8 - 0.36, abs=0.1),
        "claim gone": pytest.approx(12, abs=1.1),
    }


# ---- requests, commands, outages


async def test_leaving_sends_queued_requests(autojump_clock: trio.testing.MockClock) -> None:
    """A finished task is reported even if its node leaves at the same moment."""
    coordinator = mt.MemoryCoordinator(latency=0.1)
    await submit(coordinator, "t")
    async with mt.open_client(coordinator) as client:
        async with coordinator.open_session(mt.NodeInfo("a")) as a:
            a.finish(await get_claim(a, "t"), mt.TaskState(mt.StateName.COMPLETED))
        assert (await client.get("t")).state == "completed"


async def test_a_request_is_made_once_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    await submit(coordinator, "t")
    async with coordinator.open_session(mt.NodeInfo("a")) as a:
        a.claim("t")
        a.claim("t")
        a.bid("t")
        assert a.outstanding == 1
        await eventually(a, lambda it: it.outstanding == 0)
        (claim,) = a.view.own_claims("t", a.node.identity)
        a.release(claim)
        a.hand_over(claim, claim)
        assert a.outstanding == 1
        await eventually(a, lambda it: it.outstanding == 0)
        a.release(claim)  # already gone: no effect
        await eventually(a, lambda it: it.outstanding == 0)


async def test_quiet_only_when_no_event_waits(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    async with coordinator.open_session(mt.NodeInfo("a")) as a:
        await trio.testing.wait_all_tasks_blocked()
        assert a.quiet
        coordinator.heal(a.node.identity)  # triggers a resync without a partition
        assert not a.quiet
        await trio.testing.wait_all_tasks_blocked()
        assert a.quiet


async def test_commands_are_discarded_once(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    async with coordinator.open_client() as client, coordinator.open_session(mt.NodeInfo("a")) as a:
        await client.send(a.node.identity, mt.Command("freeze"))
        await eventually(a, lambda it: it.queued_commands())
        (queued,) = a.queued_commands()
        a.discard(queued)
        a.discard(queued)
        assert (a.outstanding, a.queued_commands()) == (1, ())
        await eventually(a, lambda it: it.outstanding == 0)
        assert coordinator._store._queued_commands == {}


async def test_commands_go_with_their_node(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    async with coordinator.open_client() as client:
        async with coordinator.open_session(mt.NodeInfo("a")) as a:
            await client.send(a.node.identity, mt.Command("freeze"))
        assert coordinator._store._queued_commands == {}


async def test_outage(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator(connect_timeout=7)
    async with coordinator.open_session(mt.NodeInfo("a")):
        coordinator.outage = True
        start = trio.current_time()
        for connect in (coordinator.open_client, lambda: coordinator.open_session(mt.NodeInfo("b"))):
            with pytest.raises(mt.CoordinatorUnavailable, match="no answer within 7 s"):
                async with connect():
                    pass
        assert trio.current_time() == start + 14


async def test_an_outage_that_ends_in_time_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    coordinator = mt.MemoryCoordinator()
    coordinator.outage = True
    async with trio.open_nursery() as nursery:

        async def end_it() -> None:
            await trio.sleep(3)
            coordinator.outage = False

        nursery.start_soon(end_it)
        async with coordinator.open_client() as client:
            assert list((await client.open_view()).nodes) == []


async def test_errors_of_a_clients_body_are_raised_unwrapped(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with mt.MemoryCoordinator().open_client():
            raise KeyError("mine")


def test_from_url() -> None:
    """Each call makes a cluster of its own: no two callers share one by accident."""
    coordinator = from_url("memory://", latency=0.5)
    assert isinstance(coordinator, mt.MemoryCoordinator)
    assert coordinator.latency == 0.5
    assert coordinator is not from_url("memory://", latency=0.5)
