"""The lease over a scripted ZooKeeper, on virtual time: never longer than proven, and no shorter than necessary."""

from __future__ import annotations

import pytest
import trio

from metafora_trio import (
    SessionLost,
    StateName,
    TaskState,
)
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import Delete
from metafora_trio_zookeeper._session.session import ZooKeeperSession
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster

COMPLETED = TaskState(StateName.COMPLETED)


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


class TestLease:
    async def test_it_counts_from_when_the_answered_heartbeat_was_sent(self) -> None:
        async with ScriptedCluster().session() as (session, connection):
            await trio.sleep(10)
            assert session.lease.cancel_at == connection.proof + 2.0
            assert session.lease.end == pytest.approx(connection.proof + 4.0 * 2 / 3 - 0.12)
            assert trio.current_time() - connection.proof <= 4 / 12 + 0.01

    async def test_no_period_is_missed_after_a_reconnect(self) -> None:
        """The barrier is an extra heartbeat, and the next one is due one period after it."""
        async with ScriptedCluster().session() as (session, connection):
            for _ in range(5):
                await trio.sleep(1.13)
                connection.cut()
                await eventually(session, lambda it: not it.current)
                await eventually(session, lambda it: it.current)
                oldest = 0.0
                for _ in range(300):
                    await trio.sleep(0.005)
                    oldest = max(oldest, trio.current_time() - connection.proof)
                assert oldest <= 4 / 12 + 0.03

    async def test_without_a_quorum_the_body_is_cancelled_in_time(self) -> None:
        """Reads are still answered; only writes prove anything."""
        cluster = ScriptedCluster()

        async def life() -> None:
            async with cluster.session() as (_, connection):
                await trio.sleep(5)
                cluster.has_quorum = False
                last = connection.proof
                try:
                    await trio.sleep(100)
                finally:
                    assert trio.current_time() == pytest.approx(last + 2.0)

        with pytest.raises(SessionLost, match="lease has run out"):
            await life()

    async def test_a_silent_connection_is_dropped_in_time(self) -> None:
        """After T/6 it tries another server, which saves the session."""
        async with ScriptedCluster().session() as (session, connection):
            await trio.sleep(5)
            connection.losing = True
            await trio.sleep(3)
            assert (connection.number, session.current) == (2, True)

    async def test_a_connection_on_which_a_long_reply_arrives_is_not_silent(self) -> None:
        """Nothing is delivered, and the answers to heartbeats wait behind it."""
        async with ScriptedCluster().session() as (_, connection):
            await trio.sleep(5)
            connection.losing = True
            for _ in range(15):
                await trio.sleep(0.1)
                connection.received += 1
            assert connection.number == 1
            connection.cut()  # before the lease ends

    async def test_a_stalled_loop_does_not_stretch_it(self, autojump_clock: trio.testing.MockClock) -> None:
        async with ScriptedCluster().session() as (_, connection):
            await trio.sleep(5)
            before = connection.proof
            autojump_clock.jump(1.5)
            await trio.sleep(0.1)
            # Sent 1.5 s late, but counted from when it was due.
            assert connection.proof <= before + 2 * 4 / 12

    async def test_a_suspended_machine_ends_it(self) -> None:
        cluster = ScriptedCluster()

        async def life() -> None:
            async with cluster.session():
                await trio.sleep(1)
                cluster.suspended += 5.0
                with trio.fail_after(0.5):
                    await trio.sleep_forever()

        with pytest.raises(SessionLost, match=r"suspended for 5\.0 s"):
            await life()

    async def test_a_reading_that_was_too_low_does_not_look_like_a_suspend_later(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, _):
            for reading in (-5.0, 0.0, -5.0, 0.0):
                cluster.suspended = reading
                await trio.sleep(1)
                assert session.current

    async def test_disconnection_alone_cancels_nothing(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection):
            cluster.refusing = True
            connection.cut()
            await trio.sleep(1.5)
            assert not session.current
            cluster.refusing = False
            await trio.sleep(1)
            assert session.current

    async def test_a_useless_session_is_given_up(self) -> None:
        """Our messages arrive but no answer does: each new connection would keep the session alive for ever."""
        cluster = ScriptedCluster()

        async def life() -> None:
            async with cluster.session() as (session, connection):
                cluster.refusing = True
                connection.cut()
                end = session.lease.end
                with trio.CancelScope(shield=True):  # a body that does not let itself be cancelled
                    await trio.sleep(2 * 4 + 5)
                assert isinstance(session, ZooKeeperSession)
                assert "two session timeouts" in str(session.lost)
                assert session.lease.end <= end

        with pytest.raises(SessionLost):
            await life()

    async def test_it_ends_when_the_nodes_znode_is_removed(self) -> None:
        cluster = ScriptedCluster()

        async def life() -> None:
            async with cluster.session() as (session, _):
                cluster.commit([Delete(f"/m/nodes/{session.node.identity}")])
                await trio.sleep(1)

        with pytest.raises(SessionLost, match="znode is gone"):
            await life()

    async def test_a_reconnect_with_a_longer_timeout_does_not_lengthen_it(self) -> None:
        """A new leader would restart the session with the timeout that it was created with."""
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection):
            await trio.sleep(3)
            cluster.session_timeout = 9.0
            connection.cut()
            await trio.sleep(3)
            assert isinstance(session, ZooKeeperSession)
            assert (connection.number, session.session_timeout) == (2, 4.0)
            assert session.lease.cancel_at == session.scope.deadline == connection.proof + 2.0
            assert trio.current_time() - connection.proof <= 4 / 12 + 0.01

    async def test_a_reconnect_with_a_shorter_timeout_shortens_it(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection):
            await trio.sleep(3)
            cluster.session_timeout = 2.0
            cluster.has_quorum = False
            connection.cut()
            await trio.sleep(0.1)
            assert isinstance(session, ZooKeeperSession)
            assert session.lease.cancel_at == session.scope.deadline == connection.connected_at + 1.0
            cluster.has_quorum = True
            connection.cut()
            await trio.sleep(1)
            assert session.session_timeout == 2.0
