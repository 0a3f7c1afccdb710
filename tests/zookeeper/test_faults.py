"""Sessions on real ZooKeeper that race, while the network fails and servers are cut off."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from metafora_trio import NodeInfo, SessionLost, StateName, Task, TaskState
from metafora_trio.contract import Session
from metafora_trio.testing.conformance import eventually
from metafora_trio.testing.conformance._subject import get_claim, own
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper.testing.real import Ensemble, ProxyLoop, TcpProxy
from tests.support.zookeeper.sessions import connection_of, expire

COMPLETED = TaskState(StateName.COMPLETED)
TIMEOUT = 3.0


@pytest.fixture
def proxy(proxies: ProxyLoop, standalone: Ensemble) -> Iterator[TcpProxy]:
    """A proxy between one session and the only server."""
    proxy = proxies.open("127.0.0.1", standalone.servers[0].client_port)
    yield proxy
    proxy.close()


@asynccontextmanager
async def session(hosts: str, namespace: str, name: str) -> AsyncGenerator[Session]:
    coordinator = ZooKeeperCoordinator(hosts, namespace=f"/{namespace}", session_timeout=TIMEOUT)
    async with coordinator.open_session(NodeInfo(name)) as session:
        yield session


async def submit(hosts: str, namespace: str, *ids: str) -> None:
    async with ZooKeeperCoordinator(hosts, namespace=f"/{namespace}").open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)


async def test_three_sessions_on_three_servers_race(ensemble: Ensemble, namespace: str) -> None:
    """All three claim 1,000 tasks at once. Each has one winner, which all agree on, and the losers' claims go."""
    tasks = [f"t{n}" for n in range(1000)]
    await submit(ensemble.hosts, namespace, *tasks)
    won: dict[str, set[str]] = {}

    async def race(session: Session) -> None:
        me = session.node.identity
        await eventually(session, lambda it: len(it.view.nodes) == 3)
        order = random.sample(tasks, len(tasks))
        for task in order:
            session.claim(task)
        decided: set[str] = set()
        won[me] = set()
        while len(decided) < len(tasks):
            await session.wait_changed()
            for task in session.take_changes().tasks:
                if task not in decided and (claim := own(session, task)):
                    decided.add(task)
                    if session.view.head(task) == claim:
                        won[me].add(task)
                    else:
                        session.release(claim)
        await eventually(session, lambda it: not it.outstanding and len(list(it.view.claims())) == 1000)
        assert set(session.view.owned_by(me)) == won[me]

    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(session(server.address, namespace, f"n{server.id}"))
            for server in ensemble.servers
        ]
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for one in sessions:
                    nursery.start_soon(race, one)
    assert set(Counter(task for tasks in won.values() for task in tasks).values()) == {1}
    assert sum(map(len, won.values())) == 1000


async def test_a_claim_whose_reply_was_lost(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    await submit(standalone.hosts, namespace, "t")
    async with session(standalone.hosts, namespace, "b") as b, session(proxy.address, namespace, "a") as a:
        proxy.hold_replies()
        a.claim("t")
        await eventually(b, lambda it: it.view.owner("t") == a.node.identity)
        assert (a.pending, own(a, "t")) == (1, None)
        proxy.drop_all()
        proxy.heal()
        await eventually(a, lambda it: it.current and not it.pending)
        assert connection_of(a).number >= 2
        assert list(a.view.queue("t")) == list(b.view.queue("t"))
        assert own(a, "t") is not None


async def test_a_finish_whose_reply_was_lost(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    """It has happened once. No node may start the task again, although the old view still had its claim."""
    await submit(standalone.hosts, namespace, "t")
    async with session(standalone.hosts, namespace, "b") as b, session(proxy.address, namespace, "a") as a:
        claim = await get_claim(a, "t")
        b.bid("t")
        await eventually(a, lambda it: len(it.view.queue("t")) == 2)
        proxy.hold_replies()
        a.finish(claim, COMPLETED)
        await eventually(b, lambda it: "t" not in it.view.tasks)
        assert a.is_leaving(claim)
        proxy.drop_all()
        proxy.heal()
        await eventually(a, lambda it: it.current and not it.outstanding)
        assert "t" not in a.view.tasks
        assert own(a, "t") is None


async def test_a_write_that_never_arrived(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    """The opposite case: the request is no longer in flight, and can be made again."""
    await submit(standalone.hosts, namespace, "t")
    async with session(proxy.address, namespace, "a") as a:
        proxy.cut()
        a.claim("t")
        await trio.sleep(0.1)
        proxy.drop_all()
        proxy.heal()
        await eventually(a, lambda it: it.current and not it.pending)
        assert own(a, "t") is None
        await get_claim(a, "t")


async def test_a_reconnect_with_missed_events(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    await submit(standalone.hosts, namespace, "kept", "finished", "deleted", "freed")
    async with session(standalone.hosts, namespace, "b") as b, session(proxy.address, namespace, "a") as a:
        kept, deleted = await get_claim(a, "kept"), await get_claim(a, "deleted")
        finished, freed = await get_claim(b, "finished"), await get_claim(b, "freed")
        await eventually(a, lambda it: len(list(it.view.claims())) == 4)
        proxy.cut(refuse=True)
        proxy.drop_all()
        await eventually(a, lambda it: not it.current)
        b.finish(finished, COMPLETED)
        b.release(freed)
        async with ZooKeeperCoordinator(standalone.hosts, namespace=f"/{namespace}").open_client() as client:
            assert await client.delete(["deleted"]) == []
        await submit(standalone.hosts, namespace, "new")
        await eventually(b, lambda it: it.view.deleted("deleted") and "new" in it.view.tasks and not it.outstanding)
        assert set(a.view.tasks) == {"kept", "finished", "deleted", "freed"}
        proxy.heal()
        await eventually(a, lambda it: it.current)
        assert a.view.tasks == b.view.tasks == {"kept": False, "deleted": True, "freed": False, "new": False}
        assert sorted(a.view.claims()) == sorted(b.view.claims()) == sorted([kept, deleted])
        assert a.view.nodes == b.view.nodes
        assert set(a.view.unclaimed) == {"freed", "new"}


async def test_a_bid_is_withdrawn_while_the_owner_hands_over(ensemble: Ensemble, namespace: str) -> None:
    """On two servers, 60 times at once: each task has exactly one of the two outcomes, and always an owner."""
    tasks = [f"t{n}" for n in range(60)]
    await submit(ensemble.hosts, namespace, *tasks)
    first, second, third = (server.address for server in ensemble.servers)
    async with (
        session(first, namespace, "watcher") as watcher,
        session(second, namespace, "a") as a,
        session(third, namespace, "b") as b,
    ):
        for task in tasks:
            a.claim(task)
        await eventually(b, lambda it: len(it.view.owned_by(a.node.identity)) == 60)
        for task in tasks:
            b.bid(task)
        for one in (a, b, watcher):
            await eventually(one, lambda it: len(list(it.view.claims())) == 120)
        for task in tasks:
            donor, heir = a.view.queue(task)
            a.hand_over(donor, heir)
            b.withdraw(heir, donor)
        with trio.fail_after(10):
            while len(list(watcher.view.claims())) > 60:
                assert not watcher.view.unclaimed
                await watcher.wait_changed()
                watcher.take_changes()
        for one in (a, b):
            await eventually(one, lambda it: not it.outstanding and len(list(it.view.claims())) == 60)
        assert not watcher.view.unclaimed
        assert sorted(a.view.claims()) == sorted(b.view.claims()) == sorted(watcher.view.claims())


async def test_two_nodes_of_one_name(standalone: Ensemble, namespace: str) -> None:
    await submit(standalone.hosts, namespace, "t", "u")
    async with session(standalone.hosts, namespace, "same") as first:
        async with session(standalone.hosts, namespace, "same") as second:
            mine = await get_claim(first, "t")
            theirs = await get_claim(second, "u")
            await eventually(first, lambda it: it.view.head("u") == theirs)
            first.release(theirs)  # not its own claim, despite the same node name
            second.bid("t")
            await eventually(first, lambda it: len(it.view.queue("t")) == 2)
            assert first.view.owner("t") == first.node.identity
            assert first.view.head("u") == theirs
        await eventually(first, lambda it: len(it.view.nodes) == 1)
        assert list(first.view.claims()) == [mine]


class Life:
    """A session with a claim, and the time at which its body was cancelled."""

    def __init__(self) -> None:
        self.cancelled_at = 0.0
        self.lost = ""

    async def run(
        self, hosts: str, namespace: str, *, task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            async with session(hosts, namespace, "a") as a:
                await get_claim(a, "t")
                task_status.started(a)
                try:
                    await trio.sleep_forever()
                finally:
                    self.cancelled_at = trio.current_time()
        except SessionLost as lost:
            self.lost = str(lost)


async def test_expiry_while_disconnected(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    """The body is cancelled long before the claim goes."""
    await submit(standalone.hosts, namespace, "t")
    life = Life()
    async with session(standalone.hosts, namespace, "b") as b, trio.open_nursery() as nursery:
        await nursery.start(life.run, proxy.address, namespace)
        await eventually(b, lambda it: it.view.head("t"))
        proxy.cut()
        await eventually(b, lambda it: not it.view.head("t"))
        gone_at = trio.current_time()
        assert 0 < life.cancelled_at < gone_at - TIMEOUT / 4
        proxy.heal()
    assert "the lease has run out" in life.lost


async def test_a_session_that_another_client_closed(standalone: Ensemble, namespace: str) -> None:
    await submit(standalone.hosts, namespace, "t")
    life = Life()
    async with trio.open_nursery() as nursery:
        a = await nursery.start(life.run, standalone.hosts, namespace)
        began = trio.current_time()
        await expire(a)
    assert life.cancelled_at - began < 1.0
    assert "expired" in life.lost


async def test_a_cut_follower_does_not_keep_a_lease_alive(linked_ensemble: Ensemble, namespace: str) -> None:
    """The follower keeps answering pings and reads, while the leader has ended the session."""
    leader = await trio.to_thread.run_sync(linked_ensemble.leader)
    follower = (await trio.to_thread.run_sync(linked_ensemble.followers))[0]
    assert leader is not None
    await submit(linked_ensemble.hosts, namespace, "t")
    life = Life()
    async with session(leader.address, namespace, "b") as b, trio.open_nursery() as nursery:
        await nursery.start(life.run, follower.address, namespace)
        await eventually(b, lambda it: it.view.head("t"))
        await trio.to_thread.run_sync(linked_ensemble.isolate, follower)
        cut_at = trio.current_time()
        await eventually(b, lambda it: not it.view.head("t"))
        assert cut_at + TIMEOUT / 4 < life.cancelled_at < trio.current_time()
        await trio.to_thread.run_sync(linked_ensemble.heal)
    assert "the lease has run out" in life.lost


async def test_a_session_leaves_a_cut_follower_in_time(linked_ensemble: Ensemble, namespace: str) -> None:
    """After T/6 without an answer to a heartbeat, it moves to another server, and nothing is cancelled."""
    follower = (await trio.to_thread.run_sync(linked_ensemble.followers))[0]
    await submit(linked_ensemble.hosts, namespace, "t")
    async with session(linked_ensemble.hosts, namespace, "a") as a:
        claim = await get_claim(a, "t")
        connection = connection_of(a)
        while connection.server != follower.address:
            connection.drop()
            await eventually(a, lambda it: not it.current)
            await eventually(a, lambda it: it.current)
        await trio.to_thread.run_sync(linked_ensemble.isolate, follower)
        await trio.sleep(TIMEOUT)
        assert connection.server != follower.address
        await eventually(a, lambda it: it.current)
        assert list(a.view.claims()) == [claim]
        assert a.lease.cancel_at > trio.current_time() + TIMEOUT / 4


async def test_a_killed_leader_costs_nothing(ensemble: Ensemble, namespace: str) -> None:
    await submit(ensemble.hosts, namespace, "t")
    async with session(ensemble.hosts, namespace, "a") as a:
        claim = await get_claim(a, "t")
        leader = await trio.to_thread.run_sync(ensemble.leader)
        assert leader is not None
        leader.kill()
        await submit(ensemble.hosts, namespace, "u")
        await eventually(a, lambda it: it.current and "u" in it.view.tasks)
        assert list(a.view.claims()) == [claim]
        await get_claim(a, "u")
