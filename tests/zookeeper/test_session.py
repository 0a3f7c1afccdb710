"""The session over a scripted ZooKeeper, on virtual time: joining and reconnects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio

from metafora_trio import BrokerTooOld, CoordinatorUnavailable, LayoutMismatch, StateName, TaskState
from metafora_trio.testing.conformance import eventually
from metafora_trio.testing.conformance._subject import get_claim
from metafora_trio_zookeeper._connection import Connection, Create, Delete, SetData, WriteOp
from metafora_trio_zookeeper._layout import TOMBSTONE, Layout
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import nothing

COMPLETED = TaskState(StateName.COMPLETED)


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


class TestJoining:
    async def test_one_burst_with_the_barrier_before_the_lists(self) -> None:
        cluster = ScriptedCluster(buckets=2)
        async with cluster.session():
            pass
        async with cluster.session() as (session, connection):
            assert session.current
            assert connection.sent[:2] == ["transact", "read"]  # the layout record, behind a barrier
            burst = connection.sent[2:]
            lists = 1 + 1 + 2 + 2
            assert burst[: 7 + lists] == [*["add_watch"] * 4, "transact", "heartbeat", "read", *["children"] * lists]

    async def test_a_server_that_lags_shows_no_record_of_an_earlier_namespace(self) -> None:
        """With its generation, tokens would be lower than those before."""
        cluster = ScriptedCluster(buckets=2)
        cluster.make_namespace(5)
        position, layout = len(cluster.log), cluster.layout
        cluster.commit([Delete(path) for path in (*reversed(layout.directories()), layout.root)])
        cluster.make_namespace(6)
        await cluster.submit("t")

        def connect_to_one_that_lags() -> Connection:
            connection = cluster.connect()
            connection.lag(position)
            return connection

        vars(cluster.coordinator)["_connect"] = connect_to_one_that_lags
        async with cluster.session() as (session, _):
            assert (await get_claim(session, "t")).seq == 6 << 32

    @pytest.mark.parametrize("buckets", [2, 8])
    async def test_the_namespace_is_made_again_between_the_check_and_the_join(self, buckets: int) -> None:
        """The tokens are those of the namespace in which the node has joined, and it must still be the right kind."""
        cluster = ScriptedCluster(buckets=2)
        cluster.make_namespace(5)
        old, new = cluster.layout, Layout("/m", buckets)

        def make_again(ops: Sequence[WriteOp]) -> None:
            if ops and isinstance(ops[0], Create) and ops[0].path.startswith(f"{old.nodes}/"):
                cluster.connections[-1].before = nothing
                cluster.commit([Delete(path) for path in (*reversed(old.directories()), old.root)])
                cluster.layout = new
                cluster.make_namespace(6)

        def connect() -> Connection:
            connection = cluster.connect()
            connection.before = make_again
            return connection

        vars(cluster.coordinator)["_connect"] = connect
        if buckets == 8:
            with pytest.raises(LayoutMismatch, match="buckets=8, not with buckets=2"):
                async with cluster.session():
                    pass
            return
        async with cluster.session() as (session, _):
            cluster.commit([Create(new.task_path("t"), b"{}")])
            await eventually(session, lambda it: "t" in it.view.tasks)
            assert (await get_claim(session, "t")).seq == 6 << 32

    async def test_an_old_server_is_refused(self) -> None:
        for missing in ("add_watch", "read"):
            cluster = ScriptedCluster()
            cluster.unimplemented.add(missing)
            with pytest.raises(BrokerTooOld, match=r"scripted:1 does not know .* 3\.6"):
                async with cluster.session():
                    pass

    async def test_unreachable(self) -> None:
        cluster = ScriptedCluster()
        cluster.refusing = True
        for open_one in (cluster.session, cluster.coordinator.open_client):
            began = trio.current_time()
            with pytest.raises(CoordinatorUnavailable, match=r"scripted:2181 within 10 s.*no connection was made"):
                async with open_one():
                    pass
            assert trio.current_time() - began == pytest.approx(10)

    async def test_no_quorum(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session():
            pass
        cluster.has_quorum = False
        with pytest.raises(CoordinatorUnavailable, match="a quorum did not answer"):
            async with cluster.session():
                pass

    async def test_no_permission(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session():
            pass
        cluster.forbidden.add("/m/nodes/")
        with pytest.raises(CoordinatorUnavailable, match="no auth"):
            async with cluster.session():
                pass

    async def test_a_granted_timeout_that_differs_is_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "metafora_trio")
        async with ScriptedCluster(3.0).session() as (session, _):
            assert session.session_timeout == 3.0
        assert "asked for a session timeout of 4 s, but scripted:1 grants 3 s" in caplog.text

    async def test_a_granted_timeout_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(CoordinatorUnavailable, match="of 4 s, but scripted:1 grants 1 s, less than"):
            async with ScriptedCluster(1.0).session():
                pass

    async def test_a_lost_reply_to_the_join_is_ours(self) -> None:
        """The node's znode already exists at the second attempt."""
        cluster = ScriptedCluster()
        async with cluster.session():
            pass
        async with trio.open_nursery() as nursery:

            async def spoil() -> None:
                await trio.sleep(0.055)
                cluster.connections[-1].losing = True
                await trio.sleep(0.3)
                assert any(path.startswith("/m/nodes/") for path in cluster.tree)
                cluster.connections[-1].cut()

            cluster.connections.clear()
            nursery.start_soon(spoil)
            # After the read of the layout record, the answers stop.
            async with cluster.session() as (session, connection):
                assert connection.number == 2
                assert list(session.view.nodes) == [session.node.identity]


class TestReconnect:
    async def test_missed_events(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("stays", "goes", "mine")
        async with cluster.session() as (a, connection), cluster.session("b") as (b, _):
            mine = await own_claim(a, "mine")
            old = a.view
            cluster.refusing = True
            connection.cut()
            theirs = await own_claim(b, "goes")
            b.finish(theirs, COMPLETED)
            await eventually(b, lambda it: "goes" not in it.view.tasks)
            cluster.refusing = False
            await cluster.submit("new")
            assert "goes" in old.tasks
            a.take_changes()
            await eventually(a, lambda it: it.current)
            assert a.view is not old
            assert a.view.tasks == b.view.tasks == {"stays": False, "new": False, "mine": False}
            assert list(a.view.claims()) == list(b.view.claims()) == [mine]
            assert a.view.nodes == b.view.nodes

    async def test_changes_during_a_resync_are_not_missed(self) -> None:
        """The new view has the changes before a list, between two lists, and after the last."""
        cluster = ScriptedCluster()
        layout = cluster.layout
        async with cluster.session() as (session, connection):
            alive: set[str] = set()
            connection.cut()
            for n in range(400):
                # The jitter, lists and reads take less time than this.
                await trio.sleep(0.0015)
                alive.add(f"t{n}")
                cluster.commit([Create(layout.task_path(f"t{n}"), b"{}")])
                if n % 3:
                    gone = alive.pop()
                    cluster.commit([Delete(layout.task_path(gone))])
            assert session.current
            await trio.sleep(0.1)
            assert session.view.tasks.keys() == alive

    @pytest.mark.parametrize("kind", ["task", "claim"])
    @pytest.mark.parametrize("change", ["appears", "vanishes"])
    async def test_the_audit_finds_lost_events(self, kind: str, change: str) -> None:
        """No real server loses these events. Claims that differ from the view make the session resync; tasks are looked
        up one by one, because a server hides the events of those that may not be read."""
        cluster = ScriptedCluster()
        layout = cluster.layout
        await cluster.submit("t", "u")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "u")
            other = replace(claim, seq=claim.seq + 7, node=f"b.{'x' * 10}")
            cluster.commit([Create(layout.claim_path(other), ephemeral=True)], owner=99)
            await trio.sleep(0.1)
            connection.numb = True
            paths = (layout.task_path("t"), layout.task_path("new"))
            if kind == "claim":
                paths = (layout.claim_path(other), layout.claim_path(replace(other, seq=other.seq + 1)))
            made: list[WriteOp] = [Create(paths[1], ephemeral=kind == "claim")]
            if kind == "task":
                made.append(SetData(paths[1], TOMBSTONE))
            cluster.commit(made if change == "appears" else [Delete(paths[0])], owner=99)
            await trio.sleep(0.1)
            connection.numb = False
            assert connection.number == 1
            await trio.sleep(2 * 4 * 5 + 1)
            assert connection.number == (2 if kind == "claim" else 1)
            assert len(session.view.tasks) + len(list(session.view.claims())) == (5 if change == "appears" else 3)
            assert session.view.deleted("new") == (kind == "task" and change == "appears")

    async def test_the_audit_finds_nothing_if_nothing_was_lost(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit(*(f"t{n}" for n in range(50)))
        async with cluster.session("a") as (a, first), cluster.session("b") as (b, second):
            first.cut()
            for n in range(100):
                for session in (a, b):
                    session.claim(f"t{n % 50}")
                    for claim in list(session.view.claims())[:3]:
                        session.release(claim)
                await trio.sleep(0.01 if n < 50 else 2)
            assert (first.number, second.number) == (2, 1)

    async def test_the_barrier_is_sent_at_once_and_the_lists_are_spread(self) -> None:
        """A change of leader makes every node list; they must not all do so at the same moment."""
        cluster = ScriptedCluster()
        delays = set()
        async with cluster.session() as (session, connection):
            for _ in range(4):
                connection.sent.clear()
                connection.cut()
                await eventually(session, lambda it: not it.current)
                await eventually(session, lambda it: it.current)
                assert connection.sent[:6] == ["add_watch"] * 4 + ["heartbeat", "children"]
                delay = trio.current_time() - connection.connected_at
                assert delay < 4 / 10 + 0.05
                delays.add(round(delay, 3))
        assert len(delays) > 2

    async def test_a_server_that_lags_does_not_show_the_past(self) -> None:
        """The finished task must not reappear, since lists count only if made after the barrier."""
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            before = len(cluster.log)
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
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection):
            cluster.has_quorum = False
            connection.cut()
            await trio.sleep(0.5)
            assert connection.number == 2
            assert not session.current
            session.claim("t")
            assert not session.is_pending("t")
            cluster.has_quorum = True
            connection.cut()
            await eventually(session, lambda it: it.current)

    async def test_a_claim_whose_reply_was_lost_is_found(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            connection.losing = True
            session.claim("t")
            await trio.sleep(0.1)
            assert session.pending == 1
            connection.cut()
            await trio.sleep(0.01)
            assert session.is_pending("t")  # the outcome is not known yet
            await eventually(session, lambda it: it.current)
            assert session.view.owner("t") == session.node.identity
            assert (session.pending, session.outstanding) == (0, 0)

    async def test_a_finish_whose_reply_was_lost_has_happened(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
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
        cluster = ScriptedCluster()
        await cluster.submit("t", "u")
        async with cluster.session() as (session, connection):
            first, second = await own_claim(session, "t"), await own_claim(session, "u")
            session.release(first)
            connection.cut()
            session.release(second)
            assert session.is_leaving(first)
            await eventually(session, lambda it: it.current)
            # It must be leaving from the step of the swap on. Otherwise a run could start under a claim that is going.
            assert session.is_leaving(first)
            assert session.is_leaving(second)
            await eventually(session, lambda it: not list(it.view.claims()))
            assert session.outstanding == 0

    async def test_an_announcement_outlasts_the_connection(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection), cluster.session("b") as (b, _):
            connection.cut()
            session.announce(replace(session.node, draining=True))
            await eventually(b, lambda it: it.view.nodes[session.node.identity].draining)

    async def test_a_tombstone_that_was_missed_is_found(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            await own_claim(session, "t")
            cluster.refusing = True
            connection.cut()
            path = next(path for path in cluster.tree if path.endswith("/t") and path.startswith("/m/tasks"))
            cluster.commit([SetData(path, TOMBSTONE, 0)])
            cluster.refusing = False
            await eventually(session, lambda it: it.current)
            assert session.view.deleted("t")

    async def test_the_tasks_held_are_looked_up_and_not_read(self) -> None:
        """They may be many and large, and the link slow."""
        cluster = ScriptedCluster()
        tasks = [f"t{n}" for n in range(5)]
        await cluster.submit(*tasks)
        async with cluster.session() as (session, connection):
            for task in tasks:
                await own_claim(session, task)
            await trio.sleep(0.1)
            connection.cut()
            await eventually(session, lambda it: not it.current)
            connection.sent.clear()
            await eventually(session, lambda it: it.current)
            assert connection.sent.count("exists") == 1
            assert connection.sent.count("read") == 1  # the record of the node

    async def test_a_read_waits_for_the_reconnect(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            connection.cut()
            record = await session.read("t")
            assert session.current
            assert record is not None
            assert record.props == {"of": "t"}

    async def test_a_broken_stream_is_noticed(self) -> None:
        """A reply without the event before it means that events were lost, so the session resyncs."""
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            connection.numb = True
            session.claim("t")
            await trio.sleep(0.01)
            assert connection.number == 1
            connection.numb = False
            await eventually(session, lambda it: it.current and connection.number == 2)
            assert session.view.owner("t") == session.node.identity
