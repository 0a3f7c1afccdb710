"""The notice of a blocked loop is taken back, over a scripted ZooKeeper, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from metafora_trio import NodeInfo, SessionLost
from metafora_trio.contract import Session
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import ConnectionState, Delete
from metafora_trio_zookeeper.testing.simulated._connection import SimulatedConnection
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import LATENCY


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    if "lab" not in request.fixturenames:
        use_virtual_time(request.node)


BLOCKED = "its event loop has been blocked since 1970-01-01T00:00:01+00:00"


def path_of(session: Session) -> str:
    return f"/m/nodes/{session.node.identity}"


def records(cluster: ScriptedCluster, session: Session) -> list[NodeInfo]:
    """The node's records so far, in the order in which they were stored."""
    stored = [node for outcome in cluster.log if (node := outcome.changes.get(path_of(session)))]
    return [NodeInfo.decode(session.node.identity, node.data) for node in stored]


async def test_an_announcement_under_way_does_not_hide_that_it_was_overwritten() -> None:
    """It was sent before the report, so its reply must not count as the record's last change."""
    cluster = ScriptedCluster()
    async with cluster.session() as (session, _):
        before, frozen = session.node, replace(session.node, frozen=True)
        session.announce(frozen)
        await trio.sleep(LATENCY / 2)
        session.report_blocked(1.0)
        await trio.sleep(10 * LATENCY)
        assert records(cluster, session) == [before, frozen, replace(frozen, notices=(BLOCKED,)), frozen]


async def test_it_is_corrected_after_a_reconnect() -> None:
    cluster = ScriptedCluster()
    async with cluster.session() as (session, connection):
        blocked = replace(session.node, notices=(BLOCKED,))
        session.report_blocked(1.0)
        connection.serve_next(connection.cut)  # before the correction arrives
        await eventually(session, lambda it: not it.current)
        assert records(cluster, session) == [session.node, blocked]
        await eventually(session, lambda it: it.current)
        await trio.sleep(3 * LATENCY)
        assert records(cluster, session) == [session.node, blocked, session.node]


async def test_a_session_that_is_over_reports_nothing() -> None:
    cluster = ScriptedCluster()

    async def life() -> None:
        async with cluster.session() as (session, connection):
            cluster.commit([Delete(path_of(session))])
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                session.report_blocked(1.0)
                assert "send_from_thread" not in connection.sent
            await trio.sleep_forever()

    with pytest.raises(SessionLost, match="znode is gone"):
        await life()


async def test_on_the_simulated_ensemble(lab: CoordinatorLab) -> None:
    lost: list[SimulatedConnection] = []

    async def life(other: Session) -> None:
        async with lab.session() as (session, connection):
            lost.append(connection)
            me = session.node.identity
            session.report_blocked(1.0)
            await eventually(session, lambda _: lab.tree[path_of(session)].version == 2)
            await eventually(other, lambda it: it.view.nodes[me] == session.node)
            session.abandon("a reason")
            await trio.sleep_forever()

    async with lab.session("b") as (other, _):
        with pytest.raises(SessionLost, match="a reason"):
            await life(other)
        assert (lost[0].halted, lost[0].state) == ("a reason", ConnectionState.CLOSED)
        await eventually(other, lambda it: len(it.view.nodes) == 1)
