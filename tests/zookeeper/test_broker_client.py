"""The client over a scripted ZooKeeper, on virtual time: lost replies, races, expired sessions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from metafora_trio import (
    Command,
    CoordinatorUnavailable,
    NodeNotFound,
    StateName,
    Task,
    TaskExists,
    TaskFinished,
    TaskState,
)
from metafora_trio.testing.conformance._subject import look_up
from metafora_trio_zookeeper._client.client import ZooKeeperClient
from metafora_trio_zookeeper._connection import Create, Delete, SetData, WriteOp
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import nothing

COMPLETED = TaskState(StateName.COMPLETED).encode()
RUNNABLE = TaskState().encode()


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


async def test_a_submit_whose_reply_was_lost_has_happened() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        cluster.lose_next_reply()
        await client.submit([Task("t", {"a": 1}), Task("u")], again=False)
        assert {cluster.layout.task_path("t"), cluster.layout.task_path("u")} <= cluster.tree.keys()
        with pytest.raises(TaskExists):
            await client.submit([Task("t", {"a": 1})], again=False)


async def test_a_server_that_lags_does_not_hide_what_has_happened() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        cluster.lose_next_reply(then_lag=True)
        await client.submit([Task("t")], again=False)
        assert cluster.layout.task_path("t") in cluster.tree


async def test_a_submit_that_never_arrived_is_repeated() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        cluster.drop_next_request()
        await client.submit([Task("t")], again=False)
        assert cluster.tree[cluster.layout.task_path("t")].data == b"{}"


async def test_another_task_with_this_id_is_not_ours() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t", {"a": 1})], again=False)
        cluster.lose_next_reply()
        with pytest.raises(TaskExists, match="'t' is in the cluster already"):
            await client.submit([Task("t", {"a": 2})], again=False)


async def test_a_task_that_ended_before_the_lost_reply_was_noticed() -> None:
    """The client cannot know whether it was this submit that ran, and the error says so."""
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        connection = cluster.connections[-1]

        def run_it_and_lose_the_reply(_: Sequence[WriteOp]) -> None:
            cluster.commit([Create(cluster.layout.state_path("t")), Create(cluster.layout.task_path("t"))])
            cluster.end("t")
            connection.cut()

        connection.before_next(run_it_and_lose_the_reply)
        with pytest.raises(TaskFinished, match=r"'t' has ended .*; the answer to this submit was lost"):
            await client.submit([Task("t")], again=False)


@pytest.mark.parametrize("ended_before", [False, True])
async def test_a_submit_again_takes_no_other_submission_for_its_own(ended_before: bool) -> None:
    """Another client has submitted the id with other properties. This submit is refused, and the answer is lost."""
    cluster = ScriptedCluster(buckets=2)
    state, path = cluster.layout.state_path("t"), cluster.layout.task_path("t")
    await cluster.submit("another")  # the namespace exists
    async with cluster.coordinator.open_client() as client:
        if ended_before:
            cluster.commit([Create(state, COMPLETED)])
        cluster.interfere(SetData(state, RUNNABLE) if ended_before else Create(state, RUNNABLE), Create(path, b"{}"))
        cluster.lose_next_reply()
        with pytest.raises(TaskExists, match="'t' is in the cluster already; the answer to this submit was lost"):
            await client.submit([Task("t", {"a": 1})], again=True)


async def test_a_submit_again_takes_the_end_of_another_submission_for_no_end_of_its_own() -> None:
    """It was refused, because the task was running. The task ends before the client has reconnected."""
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t", {"a": 1})], again=False)
        connection = cluster.connections[-1]

        def refuse_and_end(_: Sequence[WriteOp]) -> None:
            connection.cut()
            cluster.end("t")

        connection.before_next(refuse_and_end)
        with pytest.raises(TaskFinished, match=r"'t' has ended \(completed\), in this submission or in another; "):
            await client.submit([Task("t", {"a": 2})], again=True)


async def test_a_submit_again_of_several_tasks_is_known_by_those_that_have_not_ended() -> None:
    """All were submitted in one transaction, so one of them is a proof for the others."""
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t"), Task("u")], again=False)
        cluster.end("t")
        cluster.end("u")
        connection = cluster.connections[-1]

        def carry_out_and_end_one(ops: Sequence[WriteOp]) -> None:
            cluster.commit(ops)
            cluster.end("t")
            connection.cut()

        connection.before_next(carry_out_and_end_one)
        await client.submit([Task("t", {"a": 2}), Task("u", {"a": 2})], again=True)
        assert cluster.tree[cluster.layout.task_path("u")].data == b'{"a":2}'
        assert cluster.layout.task_path("t") not in cluster.tree


async def test_batches_are_bounded_and_the_error_says_how_far_it_came() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t150")], again=False)
        sizes: list[int] = []
        connection = cluster.connections[-1]
        connection.before = lambda ops: sizes.append(len(ops))
        with pytest.raises(TaskExists, match=r"'t150' .* \((128|136) of the 200 tasks were submitted\)"):
            await client.submit([Task(f"t{n}") for n in range(200)], again=False)
        assert max(sizes) == 128
        sizes.clear()
        await client.submit([Task(f"big{n}", {"x": "y" * 400_000}) for n in range(3)], again=False)
        assert sorted(sizes) == [2, 4]
        await client.submit([], again=False)


async def test_again_overwrites_the_state_as_it_was_read() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        with pytest.raises(TaskExists):
            await client.submit([Task("t")], again=True)
        cluster.end("t")
        with pytest.raises(TaskFinished, match=r"'t' has ended \(completed\)"):
            await client.submit([Task("t")], again=False)
        # Between our read and our write, another client submits it again and it ends again.
        state = cluster.layout.state_path("t")
        cluster.interfere(SetData(state, b'{"state":"runnable"}'), SetData(state, COMPLETED))
        await client.submit([Task("t"), Task("new")], again=True)
        snapshot = await look_up(client, "t")
        assert (snapshot.state, snapshot.task is not None) == (TaskState(), True)


async def test_a_delete_whose_reply_was_lost() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t"), Task("u"), Task("v")], again=False)
        cluster.lose_next_reply()
        await client.delete(["t"])
        assert cluster.tree[cluster.layout.task_path("t")].version == 1
        await client.delete(["t"])  # deleted already is fine
        cluster.end("u")
        cluster.lose_next_reply()
        await client.delete(["u"])
        assert cluster.layout.state_path("u") not in cluster.tree
        assert await client.delete(["u"]) == ["u"]


async def test_a_delete_whose_reply_was_lost_has_happened_if_nothing_is_left() -> None:
    """The owner removed the task that we deleted before we could check."""
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        connection = cluster.connections[-1]

        def lose(ops: Sequence[WriteOp]) -> None:
            cluster.commit(ops)
            cluster.commit([Delete(cluster.layout.task_path("t")), Delete(cluster.layout.state_path("t"))])
            connection.cut()

        connection.after_next(lose)
        await client.delete(["t"])
        assert await client.delete(["t"]) == ["t"]


async def test_a_delete_that_crosses_a_submit_deletes_the_task() -> None:
    """The task is submitted after the tombstone found none and before the state is read."""
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        connection = cluster.connections[-1]

        def submit() -> None:
            record = TaskState().encode()
            cluster.commit([Create(cluster.layout.state_path("t"), record), Create(cluster.layout.task_path("t"))])

        def submit_right_behind(_: Sequence[WriteOp]) -> None:
            connection.serve_next(submit)

        connection.after_next(submit_right_behind)
        await client.delete(["t"])
        assert cluster.tree[cluster.layout.task_path("t")].version == 1
        assert cluster.layout.state_path("t") in cluster.tree


async def test_a_delete_spares_the_state_of_a_task_submitted_again() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        cluster.end("t")
        connection = cluster.connections[-1]
        task, state = cluster.layout.task_path("t"), cluster.layout.state_path("t")

        def submit_again(ops: Sequence[WriteOp]) -> None:
            if isinstance(ops[0], Delete):
                connection.before = nothing
                cluster.commit([SetData(state, b'{"state":"runnable"}'), Create(task, b"{}")])

        connection.before = submit_again
        await client.delete(["t"])
        assert state in cluster.tree
        assert cluster.tree[task].version == 1  # it was submitted again, and this new task is deleted


async def test_reads_are_repeated_over_a_reconnect() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        cluster.connections[-1].cut()
        assert (await look_up(client, "t")).task is not None
        cluster.connections[-1].cut()
        assert list(await client.finished()) == []


async def test_an_outage_is_reported_in_time() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        cluster.refusing = True
        cluster.connections[-1].cut()
        for call in (look_up(client, "t"), client.submit([Task("t")], again=False), client.open_view()):
            began = trio.current_time()
            with pytest.raises(CoordinatorUnavailable, match=r"within 10 s \(the connection is disconnected\)"):
                await call
            assert trio.current_time() - began == pytest.approx(10, abs=0.1)


async def test_an_expired_session_is_followed_by_another() -> None:
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        view = await client.open_view()
        cluster.connections[-1].expire()
        await client.submit([Task("t")], again=False)
        assert len(cluster.connections) == 2
        with trio.fail_after(5):
            while "t" not in (await client.open_view()).tasks:
                await client.wait_changed()
                client.take_changes()
        assert view.tasks == {}


async def test_a_view_follows_a_reconnect() -> None:
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        await client.open_view()
        cluster.refusing = True
        cluster.connections[-1].cut()
        cluster.commit([Create(cluster.layout.task_path("t"), b"{}")])
        cluster.refusing = False
        with trio.fail_after(5):
            assert "t" in (await client.open_view()).tasks


async def test_commands() -> None:
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        with pytest.raises(NodeNotFound, match="'a' is not the identity"):
            await client.send("a", Command("freeze"))
        identity = f"a.{'x' * 10}"
        with pytest.raises(NodeNotFound, match=f"'{identity}' is over$"):
            await client.send(identity, Command("freeze"))
        cluster.commit([Create(f"/m/nodes/{identity}")])
        cluster.drop_next_request()
        await client.send(identity, Command("freeze"))
        queued_commands = [node.data for path, node in cluster.tree.items() if path.startswith("/m/node_commands/")]
        assert queued_commands == [Command("freeze").encode()]


async def test_a_command_whose_reply_was_lost_and_whose_node_has_left() -> None:
    """The node may have left because of this command, and the error says so."""
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        node = f"/m/nodes/a.{'x' * 10}"
        cluster.commit([Create(node)])
        connection = cluster.connections[-1]

        def lose(ops: Sequence[WriteOp]) -> None:
            cluster.commit(ops)
            cluster.commit([Delete(node)])
            connection.cut()

        connection.after_next(lose)
        with pytest.raises(NodeNotFound, match="is over; the answer to this command was lost"):
            await client.send(f"a.{'x' * 10}", Command("drain"))


async def test_a_missing_permission_is_reported() -> None:
    cluster = ScriptedCluster(buckets=2)
    cluster.make_namespace()
    async with cluster.coordinator.open_client() as client:
        cluster.forbidden.add("/m/states/")
        with pytest.raises(CoordinatorUnavailable, match=r"no auth .*not permit it with these credentials"):
            await client.submit([Task("t")], again=False)


async def test_a_client_gives_up_when_others_keep_changing_the_task() -> None:
    cluster = ScriptedCluster(buckets=2)
    async with cluster.coordinator.open_client() as client:
        assert isinstance(client, ZooKeeperClient)
        await client.submit([Task("t")], again=False)
        cluster.end("t")
        connection, state = cluster.connections[-1], cluster.layout.state_path("t")

        def be_faster(ops: Sequence[WriteOp]) -> None:
            cluster.commit([SetData(state, COMPLETED)])

        connection.before = be_faster
        with pytest.raises(CoordinatorUnavailable, match="gave up after 10 attempts"):
            await client.submit([Task("t")], again=True)
