"""Removing a namespace while others are about to use it, on a scripted ZooKeeper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio

from metafora_trio import CoordinatorUnavailable, LayoutMismatch, Task
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Delete, ErrorCode, RequestError, SetData, WriteOp
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import ScriptedConnection

NODE = f"/m/nodes/a.{'x' * 10}"


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


def remover(cluster: ScriptedCluster, prepare: Callable[[ScriptedConnection], None]) -> ZooKeeperCoordinator:
    """Make a coordinator whose connections are prepared by a test."""

    def connect() -> ScriptedConnection:
        connection = cluster.connect()
        prepare(connection)
        return connection

    return ZooKeeperCoordinator("scripted:2181", namespace="/m", buckets=4, connect=connect)


async def test_no_node_can_join_once_its_claims_could_be_deleted() -> None:
    """It tries to join, and then to claim, at each single request of the removal."""
    outcomes = []
    for number in range(1, 40):
        cluster = ScriptedCluster()
        await cluster.submit("t")
        claims: list[str | None] = []
        refusals: list[ErrorCode] = []

        def join(
            cluster: ScriptedCluster = cluster,
            claims: list[str | None] = claims,
            refusals: list[ErrorCode] = refusals,
        ) -> None:
            try:
                cluster.commit([Create(NODE, ephemeral=True)], owner=99)
                prefix = f"{cluster.layout.claims}/{cluster.layout.bucket('t')}/t~a.{'x' * 10}~c~"
                claims.extend(cluster.commit([Create(prefix, ephemeral=True, sequential=True)], owner=99))
            except RequestError as error:
                refusals.append(error.code)

        def prepare(connection: ScriptedConnection, number: int = number, join: Callable[[], None] = join) -> None:
            connection.before_request(number, join)

        refused = ""
        try:
            await remover(cluster, prepare).remove()
        except CoordinatorUnavailable as error:
            refused = str(error)
        if claims:
            assert {NODE, claims[0]} <= cluster.tree.keys()
            assert refused == f"/m was not removed: nodes still joined: a.{'x' * 10}"
        else:
            assert refused == ""
            assert set(cluster.tree) == {"/"}
            assert refusals in ([], [ErrorCode.NO_NODE])
        outcomes.append((bool(claims), bool(refusals)))
    assert set(outcomes) == {(True, False), (False, True), (False, False)}  # it joined, it was late, all was over


async def test_a_living_node_keeps_its_namespace() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t")
    cluster.commit([Create(NODE, ephemeral=True)], owner=99)
    before = dict(cluster.tree)
    began = trio.current_time()
    with pytest.raises(CoordinatorUnavailable, match=r"^/m was not removed: nodes still joined: a\.x"):
        await cluster.coordinator.remove()
    assert trio.current_time() - began == pytest.approx(10, abs=1)
    assert dict(cluster.tree) == before


async def test_the_last_node_is_waited_for() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t")
    cluster.commit([Create(NODE, ephemeral=True)], owner=99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.coordinator.remove)
        await trio.sleep(5)
        cluster.end_session(99)
    assert set(cluster.tree) == {"/"}


async def test_what_somebody_has_made_by_hand_is_removed_too() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t", "u")
    for path in (cluster.layout.task_path("t"), cluster.layout.state_path("t"), f"{cluster.layout.tasks}/elsewhere"):
        paths = [f"{path}/by", f"{path}/by/hand", f"{path}/too"]
        cluster.commit([Create(path) for path in [path, *paths] if path not in cluster.tree])
    await cluster.coordinator.remove()
    assert set(cluster.tree) == {"/"}


async def test_tasks_that_are_submitted_meanwhile_go_too() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t")
    tasks = iter("uvw")

    def prepare(connection: ScriptedConnection) -> None:
        def submit(ops: Sequence[WriteOp]) -> None:
            if ops[-1] == Delete("/m") and (task := next(tasks, None)):
                cluster.commit([Create(cluster.layout.state_path(task)), Create(cluster.layout.task_path(task))])

        connection.before = submit

    await remover(cluster, prepare).remove()
    assert set(cluster.tree) == {"/"}


async def test_a_claim_that_ends_meanwhile_does_no_harm() -> None:
    """Its node's znode was deleted by hand, so the removal does not wait for its session."""
    cluster = ScriptedCluster()
    await cluster.submit("t")
    claim = f"{cluster.layout.claims}/{cluster.layout.bucket('t')}/t~a.{'x' * 10}~c~"
    cluster.commit([Create(claim, ephemeral=True, sequential=True)], owner=99)

    def prepare(connection: ScriptedConnection) -> None:
        def expire(ops: Sequence[WriteOp]) -> None:
            if any(op.path.startswith(claim) for op in ops):
                cluster.end_session(99)

        connection.before = expire

    await remover(cluster, prepare).remove()
    assert set(cluster.tree) == {"/"}


async def test_a_removal_that_fails_leaves_a_namespace_that_nodes_can_join() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t")
    cluster.forbidden.add("/m/states/")
    with pytest.raises(CoordinatorUnavailable, match="no auth"):
        await cluster.coordinator.remove()
    async with cluster.session() as (session, _):
        assert session.current


async def test_a_removal_that_is_cancelled_leaves_a_namespace_that_nodes_can_join() -> None:
    for tenth in range(60):
        cluster = ScriptedCluster()
        await cluster.submit("t")
        with trio.move_on_after(0.05 + tenth * 0.001):
            await cluster.coordinator.remove()
        assert "/m" not in cluster.tree or "/m/nodes" in cluster.tree


@pytest.mark.parametrize("data", [b"", b"[]"])
async def test_only_a_namespace_is_removed(data: bytes) -> None:
    cluster = ScriptedCluster()
    cluster.commit([Create("/m", data), Create("/m/nodes")])
    with pytest.raises(CoordinatorUnavailable, match=r"^/m (is not a Metafora namespace|holds something)"):
        await cluster.coordinator.remove()
    assert set(cluster.tree) == {"/", "/m", "/m/nodes"}


async def test_another_namespace_below_is_not_touched() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t")
    cluster.commit([Create("/m/below")])
    before = dict(cluster.tree)
    with pytest.raises(
        CoordinatorUnavailable, match=r"^/m was not removed: it contains what Metafora has not made: below"
    ):
        await cluster.coordinator.remove()
    assert dict(cluster.tree) == before


async def test_a_namespace_with_other_settings_is_not_touched() -> None:
    cluster = ScriptedCluster()
    await cluster.submit("t")
    other = ZooKeeperCoordinator("scripted:2181", namespace="/m", buckets=8, connect=cluster.connect)
    before = dict(cluster.tree)
    with pytest.raises(LayoutMismatch):
        await other.remove()
    assert dict(cluster.tree) == before


async def test_there_is_nothing_to_remove() -> None:
    cluster = ScriptedCluster()
    await cluster.coordinator.remove()
    cluster.commit([Create("/m")])  # as an operator does, for its ACL
    await cluster.coordinator.remove()
    assert set(cluster.tree) == {"/", "/m"}
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
    cluster.commit([SetData(cluster.layout.task_path("t"), b"{}")])
    await cluster.coordinator.remove()
    assert set(cluster.tree) == {"/"}
