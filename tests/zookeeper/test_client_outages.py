"""A client outlives what may pass: only the calls that meet it fail. Over a scripted ZooKeeper, on virtual time."""

from __future__ import annotations

import pytest
import trio

from metafora_trio import CoordinatorUnavailable, LayoutMismatch, NodesChanged, Task, TaskChanged, open_client
from metafora_trio.testing.conformance._subject import look_up
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Delete
from metafora_trio_zookeeper._layout import GENERATION_EPOCH, Layout
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import ScriptedConnection


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


def make_again(cluster: ScriptedCluster, layout: Layout) -> None:
    """Remove the namespace and make it again, while the client is away."""
    cluster.refusing = True
    cluster.connections[-1].cut()
    paths = [path for path in cluster.tree if path.startswith("/m")]
    cluster.commit([Delete(path) for path in sorted(paths, key=len, reverse=True)])
    record = layout.new_record(GENERATION_EPOCH + 6)
    cluster.commit([Create(layout.root, record), *map(Create, layout.directories())])
    cluster.refusing = False


async def test_a_namespace_that_was_made_again_with_other_settings() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with open_client(cluster.coordinator) as client:
        await client.submit(Task("t"))
        async with client.watch() as changes:
            make_again(cluster, Layout("/m", 8))
            with pytest.raises(LayoutMismatch, match="buckets=8, not with buckets=2"):
                await anext(changes)
        for _ in range(2):
            with pytest.raises(LayoutMismatch, match="buckets=8, not with buckets=2"):
                await client.tasks()
        make_again(cluster, cluster.layout)
        await client.submit(Task("u"))
        async with client.watch() as changes:
            assert [type(await anext(changes)) for _ in range(2)] == [NodesChanged, TaskChanged]
        assert [status.id for status in await client.tasks()] == ["u"]


async def test_a_refused_list_ends_only_the_calls_that_need_it() -> None:
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        await client.open_view()
        cluster.unlisted.add("/m/claims/01")
        cluster.connections[-1].cut()
        with trio.fail_after(5):
            await client.wait_changed()
        for _ in range(2):
            with pytest.raises(CoordinatorUnavailable, match="no auth"):
                await client.open_view()
        assert (await look_up(client, "t")).task is None
        cluster.unlisted.clear()
        await client.open_view()
        cluster.commit([Create(cluster.layout.task_path("t"), b"{}")])
        with trio.fail_after(5):
            while "t" not in (await client.open_view()).tasks:
                await client.wait_changed()
                client.take_changes()


async def test_a_refused_list_is_reported_to_all_that_wait_for_it() -> None:
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    reports: list[str] = []
    async with cluster.coordinator.open_client() as client, trio.open_nursery() as nursery:

        async def open_view() -> None:
            with pytest.raises(CoordinatorUnavailable, match="no auth") as caught:
                await client.open_view()
            reports.append(str(caught.value))

        cluster.unlisted.add("/m/claims/01")
        for _ in range(3):
            nursery.start_soon(open_view)
        await trio.sleep(1)
        assert len(reports) == 3


class Failing:
    """Makes a client's connections, but fails while `problem` is set."""

    def __init__(self, cluster: ScriptedCluster) -> None:
        self.problem = ""
        self.attempts = 0
        self._cluster = cluster
        self.coordinator = ZooKeeperCoordinator("scripted:2181", namespace="/m", buckets=2, connect=self.connect)

    def connect(self) -> ScriptedConnection:
        self.attempts += 1
        if self.problem:
            raise CoordinatorUnavailable(f"cannot connect: {self.problem}")
        return self._cluster.connect()


async def test_a_connection_that_cannot_be_made_for_a_while_is_made_later() -> None:
    """As while the file of a TLS certificate is being replaced."""
    cluster = ScriptedCluster(buckets=2)
    failing = Failing(cluster)
    async with failing.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        failing.problem = "no such file"
        cluster.connections[-1].expire()
        with pytest.raises(CoordinatorUnavailable, match=r"within 10 s \(cannot connect: no such file\)"):
            await look_up(client, "t")
        assert 5 < failing.attempts < 50
        failing.problem = ""
        assert (await look_up(client, "t")).task is not None
        assert len(cluster.connections) == 2
        failing.problem = "no such file"
    with pytest.raises(CoordinatorUnavailable, match="cannot connect: no such file"):
        async with failing.coordinator.open_client():
            pass


async def test_credentials_that_are_not_accepted_for_a_while() -> None:
    """As while the service that checks them restarts."""
    cluster = ScriptedCluster(buckets=2)
    refuses = r"ZooKeeper at scripted:2181 does not accept the credentials"
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        cluster.refusing_credentials = True
        cluster.connections[-1].expire()
        with pytest.raises(CoordinatorUnavailable, match=rf"within 10 s \({refuses}\)"):
            await look_up(client, "t")
        assert 5 < len(cluster.connections) < 50
        cluster.refusing_credentials = False
        assert (await look_up(client, "t")).task is not None
    cluster.refusing_credentials = True
    began = trio.current_time()
    with pytest.raises(CoordinatorUnavailable, match=refuses):
        async with cluster.coordinator.open_client():
            pass
    assert trio.current_time() - began < 1  # nothing is tried again until the first connect has succeeded
