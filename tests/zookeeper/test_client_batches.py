"""What a client's requests cost, and how fresh its reads are, over a scripted ZooKeeper on virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio

from metafora_trio import CoordinatorUnavailable, StateName, Task, TaskState, open_client
from metafora_trio.contract import TaskSnapshot
from metafora_trio.testing.conformance._subject import look_up
from metafora_trio_zookeeper._client.parallel import for_each_chunk
from metafora_trio_zookeeper._connection import Create, Delete, SetData, WriteOp
from metafora_trio_zookeeper._layout import TOMBSTONE
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster

ENDED = TaskSnapshot(None, TaskState(StateName.COMPLETED))
COST_OF_ONE = {"transact": 1, "read": 2}
"""The barrier, the layout record, and the records of the task."""
MOST_READS = 16 + 16 + 8
"""The reads of 1,000 tasks: batches of 64, the first ones of fewer while the sizes are unknown, and layout records."""
CLAIM = "~a.xxxxxxxxxx~c~"


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


@contextmanager
def counted(cluster: ScriptedCluster) -> Iterator[Counter[str]]:
    """Count the requests that the newest connection sends during the block."""
    connection, requests = cluster.connections[-1], Counter[str]()
    before = len(connection.sent)
    yield requests
    requests.update(connection.sent[before:])


def claim(cluster: ScriptedCluster, *tasks: str) -> None:
    for task in tasks:
        path = f"{cluster.layout.claims}/{cluster.layout.bucket(task)}/{task}{CLAIM}"
        cluster.commit([Create(path, sequential=True)])


# ---- cost


async def test_a_get_lists_nothing_where_the_task_is_gone_or_the_view_is_open() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("gone"), Task("t")], again=False)
        cluster.end("gone")
        claim(cluster, "t")
        with counted(cluster) as requests:
            assert await look_up(client, "gone") == ENDED
        assert requests == COST_OF_ONE
        with counted(cluster) as requests:
            without_view = await look_up(client, "t")
        assert (requests["children"], len(without_view.queue)) == (1, 1)
        await client.open_view()
        with counted(cluster) as requests:
            assert await look_up(client, "t") == without_view
        assert requests == COST_OF_ONE


async def test_a_wait_for_many_ends_reads_them_in_batches_and_lists_nothing() -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(1000)]
    async with open_client(cluster.coordinator) as client, trio.open_nursery() as nursery:
        await client.submit(Task(id) for id in ids)
        await client.tasks()
        ended: list[str] = []

        async def wait() -> None:
            ended.extend(await client.wait(ids))

        nursery.start_soon(wait)
        await trio.sleep(1)
        with counted(cluster) as requests:
            for id in ids:
                cluster.end(id)
            await trio.sleep(10)
        assert sorted(ended) == sorted(ids)
        assert requests["children"] == 0
        assert requests["read"] <= MOST_READS
        assert requests["transact"] <= 8  # barriers, which the reads behind the first ones need no more


async def test_the_ended_tasks_are_listed_in_batches() -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(1000)]
    async with open_client(cluster.coordinator) as client:
        await client.submit(Task(id) for id in ids)
        for id in ids:
            cluster.end(id)
        await client.tasks()
        with counted(cluster) as requests:
            assert len(await client.tasks(finished=True)) == 1000
        assert requests["children"] == 4
        assert requests["read"] <= MOST_READS
        assert requests["transact"] <= 8


async def test_deletes_are_batched() -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(1000)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        with counted(cluster) as requests:
            assert await client.delete(ids) == []
        assert requests == {"transact": 8}
        assert {cluster.tree[cluster.layout.task_path(id)].data for id in ids} == {TOMBSTONE}
        for id in ids:
            cluster.end(id)
        with counted(cluster) as requests:
            assert await client.delete(ids) == []
        assert requests["read"] <= 2 * 32 + 16  # batches, and layout records; the first batches are small
        assert requests["transact"] <= 8 + 2 * 32  # the failed attempts, and then a barrier and a write a batch
        assert await client.finished() == []


async def test_a_task_that_keeps_changing_delays_only_itself() -> None:
    """Another client submits one of the tasks again each time it is deleted. All others are deleted all the same."""
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(20)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        for id in ids:
            cluster.end(id)
        state = cluster.layout.state_path("t7")

        def be_faster(ops: Sequence[WriteOp]) -> None:
            if any(isinstance(op, Delete) and op.path == state for op in ops):
                cluster.commit([SetData(state, TaskState(StateName.COMPLETED).encode())])

        cluster.connections[-1].before = be_faster
        with pytest.raises(
            CoordinatorUnavailable, match=r"not deleted: 't7' \(others kept changing it; gave up after 10 attempts\)"
        ):
            await client.delete(ids)
        assert await client.finished() == ["t7"]


async def test_a_task_that_may_not_be_deleted_keeps_no_other() -> None:
    """Neither the tasks of its batch nor those of later batches. The error names it, and says why."""
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n:03}" for n in range(600)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        for id in ids[:300]:
            cluster.end(id)
        cluster.forbidden.update(map(cluster.layout.state_path, ["t100", "t101"]))
        cluster.forbidden.add(cluster.layout.task_path("t400"))
        cluster.commit([Create(f"{cluster.layout.state_path('t200')}/made by hand")])
        with pytest.raises(CoordinatorUnavailable) as caught, counted(cluster) as requests:
            await client.delete([*ids, "none"])
        refuses = "ZooKeeper at scripted:2181 refuses"
        assert str(caught.value) == (
            f"not deleted: 't100', 't101', 't400' ({refuses}: no auth; the ACL there does not permit it with these "
            f"credentials); 't200' ({refuses}: not empty; there is a znode below, which Metafora has not made)"
        )
        assert sorted(await client.finished()) == ["t100", "t101", "t200"]
        left = {id for id in ids[300:] if cluster.tree[cluster.layout.task_path(id)].data != TOMBSTONE}
        assert left == {"t400"}
        assert requests["transact"] <= 5 + 2 * 8 + 4  # the first attempts, those after a read, and one a refused task


async def test_of_many_tasks_that_may_not_be_deleted_ten_are_named() -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n:03}" for n in range(300)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        cluster.forbidden.add("/m/tasks/")
        with pytest.raises(
            CoordinatorUnavailable, match=r"^not deleted: ('t00\d', ){9}'t009' and 290 more \(.* no auth"
        ):
            await client.delete(ids)


async def test_a_task_that_may_not_be_read_keeps_no_other_from_being_deleted() -> None:
    """A task can be deleted unread, as long as nobody has changed it. An end cannot: it may be a later one's."""
    cluster = ScriptedCluster(buckets=2)
    layout = cluster.layout
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in "abcdef"], again=False)
        for id in "abc":
            cluster.end(id)
        cluster.commit([SetData(layout.task_path("f"), b'{"by": "hand"}')])
        cluster.unreadable.update([layout.state_path("b"), layout.task_path("e"), layout.task_path("f")])
        with pytest.raises(CoordinatorUnavailable, match=r"^not deleted: 'b', 'f' \(ZooKeeper .* no auth"):
            await client.delete([*"abcdef", "none"])
        assert await client.finished() == ["b"]
        left = {id for id in "def" if cluster.tree[layout.task_path(id)].data != TOMBSTONE}
        assert left == {"f"}


async def test_a_batch_whose_reply_was_lost_is_deleted_once() -> None:
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(100)]
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in ids], again=False)
        cluster.lose_next_reply()
        assert await client.delete(ids) == []
        assert {cluster.tree[cluster.layout.task_path(id)].version for id in ids} == {1}
        for id in ids:
            cluster.end(id)
        cluster.drop_next_request()
        assert await client.delete([*ids, "none"]) == []  # unknown: its attempt may have deleted it


async def test_the_first_error_ends_the_work_on_chunks() -> None:
    begun = []

    async def work(chunk: int) -> None:
        begun.append(chunk)
        await trio.sleep(chunk)
        if chunk == 2:
            raise CoordinatorUnavailable("no answer")

    with pytest.raises(CoordinatorUnavailable, match="no answer"):
        await for_each_chunk(range(1, 9), work, at_once=2)
    assert begun == [1, 2, 3]


# ---- freshness


async def test_a_lagging_server_hides_no_write_that_was_answered() -> None:
    """The promise of `look_up` and `finished`: the server has caught up before it reads."""
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task(id) for id in "tuw"], again=False)
        connection = cluster.connections[-1]

        async def lag_and_end(task: str) -> None:
            connection.lag(len(cluster.log))
            connection.cut()
            await trio.sleep(0.1)
            assert connection.lagging
            cluster.end(task)

        await lag_and_end("t")
        assert await look_up(client, "t") == ENDED
        await lag_and_end("u")
        assert sorted(await client.finished()) == ["t", "u"]
        connection.lag(len(cluster.log))
        connection.cut()
        await trio.sleep(0.1)
        claim(cluster, "w")
        assert connection.lagging
        assert len((await look_up(client, "w")).queue) == 1


async def test_a_reconnect_amid_the_reads_passes_another_barrier() -> None:
    """What was read on the first connection was fresh; the next server may lag behind it."""
    cluster = ScriptedCluster(buckets=2)
    ids = [f"t{n}" for n in range(1000)]
    async with cluster.coordinator.open_client() as client, trio.open_nursery() as nursery:
        await client.submit([Task(id) for id in ids], again=False)
        connection, position = cluster.connections[-1], len(cluster.log)
        for id in ids:
            cluster.end(id)
        snapshots: list[TaskSnapshot] = []

        async def read() -> None:
            snapshots.extend(await client.look_up(ids))

        nursery.start_soon(read)
        await trio.sleep(0.005)  # some chunks have been read
        connection.lag(position)
        connection.cut()
        await trio.sleep(5)
        assert snapshots == [ENDED] * 1000


async def test_a_refused_read_is_reported() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        cluster.forbidden.add("/m")
        with pytest.raises(CoordinatorUnavailable, match="no auth"):
            await client.look_up(["t"])
