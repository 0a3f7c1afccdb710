"""The session over a simulated ZooKeeper, on virtual time: joining, the lease, reconnects, marks."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from metafora_trio import (
    BrokerTooOld,
    Claim,
    ClaimKind,
    Command,
    CommandName,
    CoordinatorUnavailable,
    LayoutMismatch,
    NodeInfo,
    Session,
    SessionLost,
    StateName,
    Task,
    TaskState,
)
from metafora_trio.testing import CoordinatorConformance, Subject, eventually
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Delete, SetData
from metafora_trio_zookeeper._session import ZooKeeperSession
from tests.zookeeper.fake_zookeeper import FakeConnection, FakeZooKeeper, use_virtual_time

COMPLETED = TaskState(StateName.COMPLETED)


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    # That one spins until the broker answers, and virtual time stands still meanwhile.
    if request.node.name != "test_a_cancelled_wait_loses_nothing":
        use_virtual_time(request.node)


class World(FakeZooKeeper):
    """A simulated ZooKeeper with a coordinator on it."""

    def __init__(self, session_timeout: float = 4.0, *, buckets: int = 4) -> None:
        super().__init__(session_timeout)
        self.suspended = 0.0
        self.coordinator = ZooKeeperCoordinator(
            "fake:2181",
            namespace="/m",
            session_timeout=4.0,
            buckets=buckets,
            connect=self.connect,
            rng=random.Random(1),
            suspended=lambda: self.suspended,
        )

    @asynccontextmanager
    async def session(self, name: str = "a") -> AsyncGenerator[tuple[Session, FakeConnection]]:
        place = len(self.connections)
        async with self.coordinator.open_session(NodeInfo(name, since=1.0)) as session:
            yield session, self.connections[place]

    async def submit(self, *ids: str) -> None:
        async with self.coordinator.open_client() as client:
            await client.submit([Task(id, {"of": id}) for id in ids], again=False)


async def own_claim(session: Session, task: str) -> Claim:
    session.claim(task)
    await eventually(session, lambda it: it.view.own_claims(task, session.node.identity))
    return session.view.own_claims(task, session.node.identity)[0]


class TestConformance(CoordinatorConformance):
    """The simulation is good enough for the suite that real ZooKeeper passes."""

    @pytest.fixture
    def subject(self) -> Subject:
        world = World()

        async def expire(session: Session) -> None:
            assert isinstance(session, ZooKeeperSession)
            connection = session._connection
            assert isinstance(connection, FakeConnection)
            connection.expire()

        return Subject(world.coordinator, expire)


class TestJoining:
    async def test_one_burst_with_the_barrier_before_the_lists(self) -> None:
        world = World(buckets=2)
        async with world.session():
            pass
        async with world.session() as (session, connection):
            assert session.current
            burst = connection.sent[1:]  # behind the look at the layout record
            lists = 1 + 1 + 2 + 2
            assert burst[: 6 + lists] == ["add_watch"] * 4 + ["transact", "heartbeat"] + ["children"] * lists

    async def test_the_namespace_is_made_once(self) -> None:
        world = World(buckets=2)
        async with trio.open_nursery() as nursery:
            for name in "abc":

                async def join(name: str = name) -> None:
                    async with world.session(name):
                        await trio.sleep(1)

                nursery.start_soon(join)
        assert json.loads(world.tree["/m"].data) == {"layout": 1, "buckets": 2}
        assert {"/m/tasks/00", "/m/tasks/01", "/m/commands/01", "/m/orders"} <= world.tree.keys()

    async def test_another_number_of_buckets_is_refused(self) -> None:
        world = World(buckets=4)
        async with world.session():
            pass
        other = World(buckets=8)
        other.tree, other.log = world.tree, world.log
        with pytest.raises(LayoutMismatch, match="buckets=4, not with buckets=8"):
            async with other.session():
                pass

    async def test_a_newer_layout_is_refused(self) -> None:
        world = World()
        world.commit([Create("/m", b'{"layout":2,"buckets":4}')])
        with pytest.raises(LayoutMismatch, match=r"layout 2; .* up to 1"):
            async with world.coordinator.open_client():
                pass

    async def test_a_root_made_by_an_operator_is_used(self) -> None:
        world = World()
        world.commit([Create("/m")])
        async with world.session() as (session, _):
            assert session.current

    async def test_something_else_below_the_root_is_not_touched(self) -> None:
        world = World()
        world.commit([Create("/m"), Create("/m/states")])
        with pytest.raises(CoordinatorUnavailable, match="something stands below it"):
            async with world.session():
                pass
        assert set(world.tree) == {"/m", "/m/states"}

    async def test_an_old_server_is_refused(self) -> None:
        for missing in ("add_watch", "read"):
            world = World()
            world.unimplemented.add(missing)
            with pytest.raises(BrokerTooOld, match=r"fake:1 does not know .* 3\.6"):
                async with world.session():
                    pass

    async def test_unreachable(self) -> None:
        world = World()
        world.refusing = True
        for open_one in (world.session, world.coordinator.open_client):
            began = trio.current_time()
            with pytest.raises(CoordinatorUnavailable, match=r"fake:2181 within 10 s.*no connection was made"):
                async with open_one():
                    pass
            assert trio.current_time() - began == pytest.approx(10)

    async def test_no_quorum(self) -> None:
        world = World()
        async with world.session():
            pass
        world.has_quorum = False
        with pytest.raises(CoordinatorUnavailable, match="a quorum did not answer"):
            async with world.session():
                pass

    async def test_no_permission(self) -> None:
        world = World()
        async with world.session():
            pass
        world.forbidden.add("/m/nodes/")
        with pytest.raises(CoordinatorUnavailable, match="no auth"):
            async with world.session():
                pass

    async def test_a_granted_timeout_that_differs_is_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "metafora_trio")
        async with World(3.0).session() as (session, _):
            assert session.session_timeout == 3.0
        assert "asked for a session timeout of 4 s, fake:1 grants 3 s" in caplog.text

    async def test_a_granted_timeout_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(CoordinatorUnavailable, match="of 4 s, fake:1 grants 1 s, less than"):
            async with World(1.0).session():
                pass

    async def test_a_lost_reply_to_the_join_is_ours(self) -> None:
        """The own znode is there already at the second attempt."""
        world = World()
        async with world.session():
            pass
        async with trio.open_nursery() as nursery:

            async def spoil() -> None:
                await trio.sleep(0.055)
                world.connections[-1].losing = True
                await trio.sleep(0.3)
                assert any(path.startswith("/m/nodes/") for path in world.tree)
                world.connections[-1].cut()

            world.connections.clear()
            nursery.start_soon(spoil)
            # Past the look at the layout record, the answers stop.
            async with world.session() as (session, connection):
                assert connection.number == 2
                assert list(session.view.nodes) == [session.node.identity]


class TestLease:
    async def test_it_counts_from_the_sending_of_what_was_answered(self) -> None:
        async with World().session() as (session, connection):
            await trio.sleep(10)
            assert session.lease.cancel_at == connection.proof + 2.0
            assert session.lease.end == pytest.approx(connection.proof + 4.0 * 2 / 3 - 0.12)
            assert trio.current_time() - connection.proof <= 4 / 12 + 0.01

    async def test_without_a_quorum_the_body_is_cancelled_in_time(self) -> None:
        """Reads are still answered; only writes prove anything."""
        world = World()

        async def life() -> None:
            async with world.session() as (_, connection):
                await trio.sleep(5)
                world.has_quorum = False
                last = connection.proof
                try:
                    await trio.sleep(100)
                finally:
                    assert trio.current_time() == pytest.approx(last + 2.0)

        with pytest.raises(SessionLost, match="lease has run out"):
            await life()

    async def test_a_silent_connection_is_dropped_in_time(self) -> None:
        """After T/6 another server is tried, and the session is saved."""
        async with World().session() as (session, connection):
            await trio.sleep(5)
            connection.losing = True
            await trio.sleep(3)
            assert (connection.number, session.current) == (2, True)

    async def test_a_stalled_loop_does_not_stretch_it(self, autojump_clock: trio.testing.MockClock) -> None:
        async with World().session() as (_, connection):
            await trio.sleep(5)
            before = connection.proof
            autojump_clock.jump(1.5)
            await trio.sleep(0.1)
            # Sent 1.5 s late, but counted from when it was due.
            assert connection.proof <= before + 2 * 4 / 12

    async def test_a_suspended_machine_ends_it(self) -> None:
        world = World()

        async def life() -> None:
            async with world.session():
                await trio.sleep(1)
                world.suspended += 5.0
                with trio.fail_after(0.5):
                    await trio.sleep_forever()

        with pytest.raises(SessionLost, match=r"suspended for 5\.0 s"):
            await life()

    async def test_disconnection_alone_cancels_nothing(self) -> None:
        world = World()
        async with world.session() as (session, connection):
            world.refusing = True
            connection.cut()
            await trio.sleep(1.5)
            assert not session.current
            world.refusing = False
            await trio.sleep(1)
            assert session.current

    async def test_a_useless_session_is_given_up(self) -> None:
        """What we send arrives, no answer does: each new connection would keep the session for ever."""
        world = World()

        async def life() -> None:
            async with world.session() as (session, connection):
                world.refusing = True
                connection.cut()
                end = session.lease.end
                with trio.CancelScope(shield=True):  # a body that does not let itself be cancelled
                    await trio.sleep(2 * 4 + 5)
                assert isinstance(session, ZooKeeperSession)
                assert "two session timeouts" in str(session.lost)
                assert session.lease.end <= end

        with pytest.raises(SessionLost):
            await life()

    async def test_the_own_znode_is_removed(self) -> None:
        world = World()

        async def life() -> None:
            async with world.session() as (session, _):
                world.commit([Delete(f"/m/nodes/{session.node.identity}")])
                await trio.sleep(1)

        with pytest.raises(SessionLost, match="znode is gone"):
            await life()

    async def test_a_reconnect_with_less_patience_shortens_it(self) -> None:
        world = World()
        async with world.session() as (session, connection):
            await trio.sleep(3)
            world.session_timeout = 2.0
            world.has_quorum = False
            connection.cut()
            await trio.sleep(0.1)
            assert session.lease.cancel_at == connection.connected_at + 1.0
            world.has_quorum = True
            connection.cut()
            await trio.sleep(1)
            assert session.session_timeout == 2.0


class TestReconnect:
    async def test_missed_events(self) -> None:
        world = World()
        await world.submit("stays", "goes", "mine")
        async with world.session() as (a, connection), world.session("b") as (b, _):
            mine = await own_claim(a, "mine")
            old = a.view
            world.refusing = True
            connection.cut()
            theirs = await own_claim(b, "goes")
            b.finish(theirs, COMPLETED)
            await eventually(b, lambda it: "goes" not in it.view.tasks)
            world.refusing = False
            await world.submit("new")
            assert "goes" in old.tasks
            a.take_changes()
            await eventually(a, lambda it: it.current)
            assert a.view is not old
            assert a.view.tasks == b.view.tasks == {"stays": False, "new": False, "mine": False}
            assert list(a.view.claims()) == list(b.view.claims()) == [mine]
            assert a.view.nodes == b.view.nodes

    async def test_a_server_that_lags_does_not_show_the_past(self) -> None:
        """The finished task must not come back: what is listed counts only behind the barrier."""
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            claim = await own_claim(session, "t")
            before = len(world.log)
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.outstanding)
            connection.lag(before)
            connection.cut()
            seen = []
            for _ in range(1000):
                await trio.sleep(0.002)
                seen.append((bool(session.view.tasks), bool(list(session.view.claims()))))
            assert session.current
            assert set(seen) == {(False, False)}

    async def test_nothing_is_current_before_the_barrier_is_answered(self) -> None:
        world = World()
        async with world.session() as (session, connection):
            world.has_quorum = False
            connection.cut()
            await trio.sleep(0.5)
            assert connection.number == 2
            assert not session.current
            session.claim("t")
            assert not session.is_pending("t")
            world.has_quorum = True
            connection.cut()
            await eventually(session, lambda it: it.current)

    async def test_a_claim_whose_reply_was_lost_is_found(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            connection.losing = True
            session.claim("t")
            await trio.sleep(0.1)
            assert session.pending == 1
            connection.cut()
            await trio.sleep(0.01)
            assert session.is_pending("t")  # nobody knows yet
            await eventually(session, lambda it: it.current)
            assert session.view.owner("t") == session.node.identity
            assert (session.pending, session.outstanding) == (0, 0)

    async def test_a_finish_whose_reply_was_lost_has_happened(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            claim = await own_claim(session, "t")
            connection.losing = True
            session.finish(claim, COMPLETED)
            await trio.sleep(0.1)
            connection.cut()
            await trio.sleep(0.01)
            assert session.is_leaving(claim)
            await eventually(session, lambda it: it.current)
            assert not session.is_leaving(claim)
            assert (session.view.tasks, list(session.view.claims())) == ({}, [])

    async def test_a_release_outlasts_the_connection(self) -> None:
        world = World()
        await world.submit("t", "u")
        async with world.session() as (session, connection):
            first, second = await own_claim(session, "t"), await own_claim(session, "u")
            session.release(first)
            connection.cut()
            session.release(second)
            assert session.is_leaving(first)
            await eventually(session, lambda it: it.current)
            # From the step of the swap on: else a scope could be opened within a claim that goes.
            assert session.is_leaving(first)
            assert session.is_leaving(second)
            await eventually(session, lambda it: not list(it.view.claims()))
            assert session.outstanding == 0

    async def test_an_announcement_outlasts_the_connection(self) -> None:
        world = World()
        async with world.session() as (session, connection), world.session("b") as (b, _):
            connection.cut()
            session.announce(replace(session.node, draining=True))
            await eventually(b, lambda it: it.view.nodes[session.node.identity].draining)

    async def test_a_tombstone_that_was_missed_is_found(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            await own_claim(session, "t")
            world.refusing = True
            connection.cut()
            path = next(path for path in world.tree if path.endswith("/t") and path.startswith("/m/tasks"))
            world.commit([SetData(path, b"{}", 0)])
            world.refusing = False
            await eventually(session, lambda it: it.current)
            assert session.view.deleted("t")

    async def test_a_read_waits_for_the_reconnect(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            connection.cut()
            record = await session.read("t")
            assert session.current
            assert record is not None
            assert record.props == {"of": "t"}

    async def test_a_broken_stream_is_noticed(self) -> None:
        """A reply without the event before it: events were lost, so all is looked at anew."""
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            connection.numb = True
            session.claim("t")
            await trio.sleep(0.01)
            assert connection.number == 1
            connection.numb = False
            await eventually(session, lambda it: it.current and connection.number == 2)
            assert session.view.owner("t") == session.node.identity


class TestRequests:
    async def test_a_claim_reads_ahead(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, connection):
            await trio.sleep(0.1)
            connection.sent.clear()
            await own_claim(session, "t")
            record = await session.read("t")
            assert record is not None
            assert record.props == {"of": "t"}
            assert connection.sent == ["transact", "read"]

    async def test_what_was_read_ahead_is_forgotten_when_it_changes(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, _), world.coordinator.open_client() as client:
            await own_claim(session, "t")
            await trio.sleep(0.1)
            await client.delete("t")
            record = await session.read("t")
            assert record is not None
            assert record.deleted

    async def test_a_tombstone_that_is_read_is_in_the_view(self) -> None:
        world = World()
        await world.submit("t")
        async with world.coordinator.open_client() as client:
            await client.delete("t")
        async with world.session() as (session, _):
            assert not session.view.deleted("t")  # lists do not tell
            claim = await own_claim(session, "t")
            record = await session.read("t")
            assert record is not None
            assert (record.version, session.view.deleted("t")) == (1, True)
            session.finish(claim, None)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)

    async def test_a_missing_state_record_is_made(self) -> None:
        world = World()
        await world.submit("t", "u")
        states = {
            path.rpartition("/")[2]: path for path in world.tree if path.startswith("/m/states/0") and path[-2] == "/"
        }
        world.commit([Delete(states["t"]), Delete(states["u"])])
        async with world.session() as (session, _):
            for task in "tu":
                session.finish(await own_claim(session, task), COMPLETED if task == "t" else None)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)
        assert TaskState.decode(world.tree[states["t"]].data) == COMPLETED
        assert states["u"] not in world.tree

    async def test_one_refused_unit_does_not_hold_up_the_others(self) -> None:
        """A hundred ends in one transaction, every tenth of a claim that is gone behind our back."""
        world = World()
        tasks = [f"t{n}" for n in range(100)]
        await world.submit(*tasks)
        async with world.session() as (session, connection):
            claims = [await own_claim(session, task) for task in tasks]
            connection.numb = True
            layout = world.coordinator._layout
            world.commit([Delete(layout.claim_path(claim)) for claim in claims[::10]])
            await trio.sleep(0.01)
            connection.numb = False
            for claim in claims:
                session.finish(claim, COMPLETED)
            await trio.sleep(1)
            assert session.outstanding == 0
            assert sorted(session.view.tasks) == sorted(tasks[::10])
            assert not any(session.is_leaving(claim) for claim in claims)

    async def test_no_permission_ends_the_session_loudly(self) -> None:
        world = World()
        await world.submit("t")

        async def life() -> None:
            async with world.session() as (session, _):
                layout = world.coordinator._layout
                world.forbidden.add(layout.claim_prefix("t", session.node.identity, ClaimKind.CLAIM))
                session.claim("t")
                await trio.sleep(1)

        with pytest.raises(SessionLost, match="claiming task 't': no auth"):
            await life()

    async def test_a_second_request_for_the_same_thing_is_ignored(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, _):
            session.claim("t")
            session.bid("t")
            await eventually(session, lambda it: it.view.head("t"))
            session.claim("t")
            await trio.sleep(0.1)
            (claim,) = session.view.queue("t")
            session.finish(claim, COMPLETED)
            session.finish(claim, COMPLETED)
            session.release(claim)
            await eventually(session, lambda it: not it.outstanding)

    async def test_a_state_that_is_too_large_is_refused_at_once(self) -> None:
        world = World()
        await world.submit("t")
        async with world.session() as (session, _):
            claim = await own_claim(session, "t")
            state = TaskState.decode(
                json.dumps(
                    {
                        "state": "failed",
                        "errors": [{"timestamp": "2026-01-01T00:00:00+00:00", "error": "x" * 1_000_000}],
                    }
                ).encode()
            )
            with pytest.raises(ValueError, match="task 't' takes 1,000,"):
                session.finish(claim, state)
            assert not session.is_leaving(claim)

    async def test_claims_are_capped_by_their_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("metafora_trio_zookeeper._marks.MAX_SESSION_BYTES", 400)
        world = World()
        await world.submit(*(f"t{n}" for n in range(20)))
        async with world.session() as (session, _):
            for _ in range(3):  # what is usual here is known once there are some
                for task in list(session.view.unclaimed):
                    session.claim(task)
                await eventually(session, lambda it: not it.pending)
            size = sum(len(path) + 4 for path in world.tree if "/claims/" in path and "~" in path)
            assert 300 < size <= 400
            session.claim("t19")
            assert (session.room, session.pending) == (0, 0)

    async def test_strange_names_are_ignored(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World()
        await world.submit("t")
        names = [f"t~b.{'x' * 10}~c~0000000001", "nonsense", f"t~b.{'x' * 10}~z~0000000002", "t~b~c~0000000003"]
        async with world.session() as (session, _):
            wrong = next(b for b in world.coordinator._layout.buckets if b != world.coordinator._layout.bucket("t"))
            right = world.coordinator._layout.bucket("t")
            world.commit(
                [Create(f"/m/claims/{wrong}/{names[0]}"), *(Create(f"/m/claims/{right}/{n}") for n in names[1:])]
            )
            world.commit([Create("/m/nodes/nobody"), Create("/m/orders/none"), Create(f"/m/tasks/{wrong}/t")])
            await trio.sleep(0.1)
            assert list(session.view.claims()) == []
            assert list(session.view.nodes) == [session.node.identity]
        async with world.session() as (session, _):  # listed, not told
            assert (list(session.view.claims()), list(session.view.tasks)) == ([], ["t"])
        assert all(caplog.text.count(repr(name)) == 2 for name in (names[0], names[1], "nobody", "none"))


class TestOrders:
    async def test_they_come_in_order_and_go(self) -> None:
        world = World()
        async with world.session() as (session, _), world.coordinator.open_client() as client:
            for name in (CommandName.FREEZE, CommandName.BALANCE):
                await client.send(session.node.identity, Command(name))
            await eventually(session, lambda it: len(it.orders()) == 2)
            first, second = session.orders()
            assert (first.command, second.command) == (Command("freeze"), Command("balance"))
            session.discard(first)
            assert session.orders() == [second]
            await eventually(session, lambda it: not it.outstanding)
            assert [path for path in world.tree if path.startswith("/m/orders/")] == [f"/m/orders/{second.id}"]

    async def test_they_are_there_after_a_reconnect(self) -> None:
        world = World()
        async with world.session() as (session, connection), world.coordinator.open_client() as client:
            world.refusing = True
            connection.cut()
            await client.send(session.node.identity, Command(CommandName.FREEZE))
            world.refusing = False
            await eventually(session, lambda it: it.orders())

    async def test_one_that_cannot_be_read_is_there_without_a_command(self) -> None:
        world = World()
        async with world.session() as (session, _):
            world.commit([Create(f"/m/orders/{session.node.identity}~", b"?", sequential=True)])
            await eventually(session, lambda it: it.orders())
            assert session.orders()[0].command is None

    async def test_those_of_nodes_that_are_gone_are_removed_by_one_node(self) -> None:
        world = World()
        gone = f"gone.{'x' * 10}"
        world_before = f"/m/orders/{gone}~"
        async with world.session("a"), world.session("b") as (b_session, b):
            world.commit([Create(world_before, b"{}", sequential=True)])
            world.commit([Create(f"/m/orders/{b_session.node.identity}~", b"{}", sequential=True)])
            await trio.sleep(0.5)
            assert len([path for path in world.tree if path.startswith("/m/orders/")]) == 2
            await trio.sleep(2)
            assert [path for path in world.tree if path.startswith("/m/orders/")] == [
                f"/m/orders/{b_session.node.identity}~0000000001"
            ]
            assert "transact" not in b.sent[b.sent.index("heartbeat") :]
