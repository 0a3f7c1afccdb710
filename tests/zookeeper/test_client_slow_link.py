"""A client behind a slow link: large records are read a few at a time, and a long reply is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from metafora_trio import CoordinatorUnavailable, Task, TaskExists
from metafora_trio.contract import BrokerClient
from metafora_trio_zookeeper._connection import Done, Reply, RequestError, SetData
from metafora_trio_zookeeper._layout import TOMBSTONE
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster

LARGE = 400_000
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


# ---- how much is under way


class UnderWay:
    """Counts the bytes that the newest connection reads: in one reply, and in all that are not answered yet."""

    def __init__(self, cluster: ScriptedCluster) -> None:
        self.largest_reply = self.largest = 0
        self._now = 0
        self._cluster = cluster
        self._connection = cluster.connections[-1]
        self._read, self._connection.read = self._connection.read, self.read  # type: ignore[method-assign]

    def read(self, paths: Sequence[str], done: Done) -> None:
        tree = self._cluster.tree
        size = sum(len(tree[path].data) for path in paths if path in tree)
        self._now += size
        self.largest_reply = max(self.largest_reply, size)
        self.largest = max(self.largest, self._now)

        def answered(reply: Reply | RequestError) -> None:
            self._now -= size
            done(reply)

        self._read(paths, answered)


async def _look_up(client: BrokerClient, ids: Sequence[str]) -> None:
    snapshots = await client.look_up(ids)
    assert all(len(snapshot.task.props["large"]) == LARGE for snapshot in snapshots if snapshot.task)


async def _submit(client: BrokerClient, ids: Sequence[str]) -> None:
    with pytest.raises(TaskExists, match="'t0' is in the cluster already"):
        await client.submit([Task(id) for id in ids], again=True)


async def _delete(client: BrokerClient, ids: Sequence[str]) -> None:
    assert await client.delete([*ids, "none"]) == ["none"]


@pytest.mark.parametrize("call", [_look_up, _submit, _delete])
async def test_large_records_are_read_a_few_at_a_time(
    call: Callable[[BrokerClient, Sequence[str]], Awaitable[None]],
) -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(50)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id, {"large": "x" * LARGE}) for id in ids], again=False)
        under_way = UnderWay(cluster)
        await call(client, ids)
    assert under_way.largest_reply <= 2 * LARGE
    assert under_way.largest <= 5 * LARGE


async def test_the_records_of_ends_are_read_a_few_at_a_time_if_they_are_large() -> None:
    """They hold the properties, for a retry."""
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(50)]
    end = b'{"state":"failed","props":{"large":"' + b"x" * LARGE + b'"}}'
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        for id in ids:
            cluster.end(id)
            cluster.commit([SetData(cluster.layout.state_path(id), end)])
        under_way = UnderWay(cluster)
        await client.look_up(ids)
        await client.submit([Task(id) for id in ids], again=True)
        assert under_way.largest_reply <= 2 * LARGE
        assert under_way.largest <= 5 * LARGE


async def test_small_records_are_soon_read_many_at_a_time() -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(2000)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        connection = cluster.connections[-1]
        for most in (120, 40):
            before = len(connection.sent)
            await client.look_up(ids)
            assert connection.sent[before:].count("read") <= most


# ---- patience


async def test_a_reply_is_waited_for_while_it_arrives() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client, trio.open_nursery() as nursery:
        await client.submit([Task("t", {"large": 1}), Task("u")], again=False)
        connection = cluster.connections[-1]
        done: list[str] = []

        async def run(name: str, call: Callable[[], Awaitable[object]]) -> None:
            await call()
            done.append(name)

        connection.hold_replies()
        nursery.start_soon(run, "look_up", lambda: client.look_up(["t"]))
        nursery.start_soon(run, "delete", lambda: client.delete(["u"]))
        nursery.start_soon(run, "open_view", client.open_view)
        for _ in range(5 * int(PATIENCE)):
            await trio.sleep(1)
            connection.received += 1
        assert done == []
        connection.hold_replies(False)
        await trio.sleep(1)
        assert sorted(done) == ["delete", "look_up", "open_view"]
        assert cluster.tree[cluster.layout.task_path("u")].data == TOMBSTONE


@pytest.mark.parametrize("arriving", [0, 15, 30])
async def test_a_reply_that_stops_arriving_is_reported(arriving: int) -> None:
    """At once if the time is up; otherwise a fourth of it later, since more may have been about to come."""
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client, trio.open_nursery() as nursery:
        await client.submit([Task("t")], again=False)
        connection = cluster.connections[-1]
        connection.hold_replies()

        async def arrive() -> None:
            for _ in range(arriving):
                connection.received += 1
                await trio.sleep(1)

        nursery.start_soon(arrive)
        began = trio.current_time()
        with pytest.raises(CoordinatorUnavailable, match="no answer from ZooKeeper at scripted:2181 within 10 s"):
            await client.look_up(["t"])
        latest = max(PATIENCE, arriving + PATIENCE / 2)
        assert began + max(PATIENCE, arriving) <= trio.current_time() <= began + latest
        connection.hold_replies(False)


async def test_a_reply_that_takes_too_long_is_not_asked_for_over_and_over() -> None:
    """The connection breaks again and again while the reply arrives. The time for all attempts is limited."""
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client, trio.open_nursery() as nursery:
        await client.submit([Task("t")], again=False)
        connection = cluster.connections[-1]
        connection.hold_replies()

        async def fail_slowly() -> None:
            while True:
                for _ in range(4):
                    await trio.sleep(1)
                    connection.received += 1
                connection.cut()

        nursery.start_soon(fail_slowly)
        began = trio.current_time()
        with pytest.raises(CoordinatorUnavailable, match="within 10 s"):
            await client.look_up(["t"])
        assert trio.current_time() - began <= 1.5 * PATIENCE
        connection.hold_replies(False)
        nursery.cancel_scope.cancel()
