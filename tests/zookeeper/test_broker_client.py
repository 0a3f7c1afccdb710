"""The client over a simulated ZooKeeper, on virtual time: lost replies, races, expired sessions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import trio

from metafora_trio import (
    Command,
    CoordinatorUnavailable,
    InvalidTask,
    NodeNotFound,
    StateName,
    Task,
    TaskExists,
    TaskFinished,
    TaskNotFound,
    TaskState,
)
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._client import ZooKeeperClient
from metafora_trio_zookeeper._connection import Create, Delete, Done, SetData, WriteOp
from tests.support.zookeeper.fake_zookeeper import FakeConnection, FakeZooKeeper, use_virtual_time

COMPLETED = TaskState(StateName.COMPLETED).encode()


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


class Meddled(FakeConnection):
    """A connection to whose transactions something can be done: `before` and `after` each is carried out."""

    before: Callable[[Sequence[WriteOp]], None] = staticmethod(lambda ops: None)
    after: Callable[[Sequence[WriteOp]], None] = staticmethod(lambda ops: None)

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self.before(ops)
        super().transact(ops, done)
        self.after(ops)


class World(FakeZooKeeper):
    def __init__(self) -> None:
        super().__init__()
        self.coordinator = ZooKeeperCoordinator(
            "fake:2181", namespace="/m", buckets=2, connect=self.connect, rng=random.Random(1)
        )
        self.layout = self.coordinator._layout

    def connect(self) -> Meddled:
        connection = Meddled(self, len(self.connections) + 1)
        self.connections.append(connection)
        return connection

    def lose_next_reply(self, *, then_lag: bool = False) -> None:
        """The next transaction is carried out; its reply never comes, and the connection breaks. The server after it
        may not have heard of that transaction yet."""
        connection = self.connections[-1]
        assert isinstance(connection, Meddled)

        def lose(ops: Sequence[WriteOp]) -> None:
            connection.after = Meddled.after
            connection.losing = True
            if then_lag:
                connection.lag(len(self.log))
            trio.lowlevel.spawn_system_task(self._cut_soon, connection)

        connection.after = lose

    async def _cut_soon(self, connection: FakeConnection) -> None:
        await trio.sleep(0.1)
        connection.cut()

    def drop_next_request(self) -> None:
        """The connection breaks before the next transaction is sent."""
        connection = self.connections[-1]
        assert isinstance(connection, Meddled)

        def drop(ops: Sequence[WriteOp]) -> None:
            connection.before = Meddled.before
            connection.cut()

        connection.before = drop

    def interfere(self, *ops: WriteOp) -> None:
        """Somebody else is faster than the next transaction."""
        connection = self.connections[-1]
        assert isinstance(connection, Meddled)

        def first(_: Sequence[WriteOp]) -> None:
            connection.before = Meddled.before
            self.commit(ops)

        connection.before = first

    def end(self, task: str) -> None:
        """What the owner of a task does at its end."""
        self.commit([SetData(self.layout.state_path(task), COMPLETED), Delete(self.layout.task_path(task))])


async def test_a_submit_whose_reply_was_lost_has_happened() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        world.lose_next_reply()
        await client.submit([Task("t", {"a": 1}), Task("u")], again=False)
        assert {world.layout.task_path("t"), world.layout.task_path("u")} <= world.tree.keys()
        with pytest.raises(TaskExists):
            await client.submit([Task("t", {"a": 1})], again=False)


async def test_a_server_that_lags_does_not_hide_what_has_happened() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        world.lose_next_reply(then_lag=True)
        await client.submit([Task("t")], again=False)
        assert world.layout.task_path("t") in world.tree


async def test_a_submit_that_never_arrived_is_made_again() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        world.drop_next_request()
        await client.submit([Task("t")], again=False)
        assert world.tree[world.layout.task_path("t")].data == b"{}"


async def test_another_task_of_this_name_is_not_ours() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t", {"a": 1})], again=False)
        world.lose_next_reply()
        with pytest.raises(TaskExists, match="'t' is in the cluster already"):
            await client.submit([Task("t", {"a": 2})], again=False)


async def test_a_task_that_ended_before_the_reply_was_found_lost() -> None:
    """Nobody can say whether it was this submit that ran: that is said."""
    world = World()
    async with world.coordinator.open_client() as client:
        connection = world.connections[-1]
        assert isinstance(connection, Meddled)

        def run_it_and_lose_the_reply(_: Sequence[WriteOp]) -> None:
            connection.before = Meddled.before
            world.commit([Create(world.layout.state_path("t")), Create(world.layout.task_path("t"))])
            world.end("t")
            connection.cut()

        connection.before = run_it_and_lose_the_reply
        with pytest.raises(TaskFinished, match=r"'t' has ended .*; the answer to this submit was lost"):
            await client.submit([Task("t")], again=False)


async def test_batches_are_bounded_and_the_error_says_how_far_it_came() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t150")], again=False)
        sizes: list[int] = []
        connection = world.connections[-1]
        assert isinstance(connection, Meddled)
        connection.before = lambda ops: sizes.append(len(ops))
        with pytest.raises(TaskExists, match=r"'t150' .* \((128|136) of the 200 tasks were submitted\)"):
            await client.submit([Task(f"t{n}") for n in range(200)], again=False)
        assert max(sizes) == 128
        sizes.clear()
        await client.submit([Task(f"big{n}", {"x": "y" * 400_000}) for n in range(3)], again=False)
        assert sorted(sizes) == [2, 4]
        await client.submit([], again=False)


async def test_again_overwrites_the_state_as_it_was_read() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        with pytest.raises(TaskExists):
            await client.submit([Task("t")], again=True)
        world.end("t")
        with pytest.raises(TaskFinished, match=r"'t' has ended \(completed\)"):
            await client.submit([Task("t")], again=False)
        # Another client submits it again, and it ends again, between our look and our write.
        state = world.layout.state_path("t")
        world.interfere(SetData(state, b'{"state":"runnable"}'), SetData(state, COMPLETED))
        await client.submit([Task("t"), Task("new")], again=True)
        snapshot = await client.look_up("t")
        assert (snapshot.state, snapshot.task is not None) == (TaskState(), True)


async def test_a_state_that_was_left_behind_is_no_end() -> None:
    """The task was removed by hand: there is nothing to be told of an end."""
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        world.commit([Delete(world.layout.task_path("t"))])
        await client.submit([Task("t")], again=False)
        assert (await client.look_up("t")).task is not None


async def test_a_delete_whose_reply_was_lost() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t"), Task("u"), Task("v")], again=False)
        world.lose_next_reply()
        await client.delete("t")
        assert world.tree[world.layout.task_path("t")].version == 1
        await client.delete("t")  # deleted already is fine
        world.end("u")
        world.lose_next_reply()
        await client.delete("u")
        assert world.layout.state_path("u") not in world.tree
        with pytest.raises(TaskNotFound):
            await client.delete("u")


async def test_a_delete_of_which_nobody_knows_and_nothing_is_left_has_happened() -> None:
    """The owner has removed what we had deleted, before we could look."""
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        connection = world.connections[-1]
        assert isinstance(connection, Meddled)

        def lose(ops: Sequence[WriteOp]) -> None:
            connection.after = Meddled.after
            world.commit(ops)
            world.commit([Delete(world.layout.task_path("t")), Delete(world.layout.state_path("t"))])
            connection.cut()

        connection.after = lose
        await client.delete("t")
        with pytest.raises(TaskNotFound):
            await client.delete("t")


async def test_a_delete_that_crosses_a_submit_deletes_the_task() -> None:
    """The task comes between the tombstone that found none and the look at the state."""
    world = World()
    async with world.coordinator.open_client() as client:
        connection = world.connections[-1]
        assert isinstance(connection, Meddled)

        def submit() -> None:
            record = TaskState().encode()
            world.commit([Create(world.layout.state_path("t"), record), Create(world.layout.task_path("t"))])

        def submit_right_behind(_: Sequence[WriteOp]) -> None:
            connection.after = Meddled.after
            connection._up.put(submit)

        connection.after = submit_right_behind
        await client.delete("t")
        assert world.tree[world.layout.task_path("t")].version == 1
        assert world.layout.state_path("t") in world.tree


async def test_a_state_left_behind_by_hand_can_be_deleted() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        for data in (TaskState().encode(), b"not a record"):
            world.commit([Create(world.layout.state_path("t"), data)])
            await client.delete("t")
            assert world.layout.state_path("t") not in world.tree
            assert world.layout.task_path("t") not in world.tree


async def test_a_delete_spares_the_state_of_a_task_submitted_again() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        world.end("t")
        connection = world.connections[-1]
        assert isinstance(connection, Meddled)
        task, state = world.layout.task_path("t"), world.layout.state_path("t")

        def submit_again(ops: Sequence[WriteOp]) -> None:
            if isinstance(ops[0], Delete):
                connection.before = Meddled.before
                world.commit([SetData(state, b'{"state":"runnable"}'), Create(task, b"{}")])

        connection.before = submit_again
        await client.delete("t")
        assert state in world.tree
        assert world.tree[task].version == 1  # it had come back, and is deleted as what it is now


async def test_reads_are_repeated_over_a_reconnect() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        world.connections[-1].cut()
        assert (await client.look_up("t")).task is not None
        world.connections[-1].cut()
        assert list(await client.finished()) == []


async def test_an_outage_is_reported_in_time() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        world.refusing = True
        world.connections[-1].cut()
        for call in (client.look_up("t"), client.submit([Task("t")], again=False), client.open_view()):
            began = trio.current_time()
            with pytest.raises(CoordinatorUnavailable, match=r"within 10 s \(the connection is disconnected\)"):
                await call
            assert trio.current_time() - began == pytest.approx(10, abs=0.1)


async def test_an_expired_session_is_followed_by_another() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        view = await client.open_view()
        world.connections[-1].expire()
        await client.submit([Task("t")], again=False)
        assert len(world.connections) == 2
        with trio.fail_after(5):
            while "t" not in (await client.open_view()).tasks:
                await client.wait_changed()
                client.take_changes()
        assert view.tasks == {}


async def test_a_view_follows_a_reconnect() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.open_view()
        world.refusing = True
        world.connections[-1].cut()
        world.commit([Create(world.layout.task_path("t"), b"{}")])
        world.refusing = False
        with trio.fail_after(5):
            assert "t" in (await client.open_view()).tasks


async def test_commands() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        with pytest.raises(NodeNotFound, match="'a' is not the identity"):
            await client.send("a", Command("freeze"))
        identity = f"a.{'x' * 10}"
        with pytest.raises(NodeNotFound, match=f"'{identity}' is over$"):
            await client.send(identity, Command("freeze"))
        world.commit([Create(f"/m/nodes/{identity}")])
        world.drop_next_request()
        await client.send(identity, Command("freeze"))
        queued_commands = [node.data for path, node in world.tree.items() if path.startswith("/m/node_commands/")]
        assert queued_commands == [Command("freeze").encode()]


async def test_a_command_of_which_nobody_knows_whether_it_arrived() -> None:
    """The node has left since, perhaps because it was told to: that is said."""
    world = World()
    async with world.coordinator.open_client() as client:
        node = f"/m/nodes/a.{'x' * 10}"
        world.commit([Create(node)])
        connection = world.connections[-1]
        assert isinstance(connection, Meddled)

        def lose(ops: Sequence[WriteOp]) -> None:
            connection.after = Meddled.after
            world.commit(ops)
            world.commit([Delete(node)])
            connection.cut()

        connection.after = lose
        with pytest.raises(NodeNotFound, match="is over; the answer to this command was lost"):
            await client.send(f"a.{'x' * 10}", Command("drain"))


async def test_ids_are_checked_before_they_become_paths() -> None:
    async with World().coordinator.open_client() as client:
        for call in (client.look_up("a/b"), client.delete("../x")):
            with pytest.raises(InvalidTask):
                await call


async def test_a_state_that_cannot_be_read_is_named() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        for data in (b"?", b"[]", b'{"state":"unheard"}', b'{"errors":[{}]}', b'{"errors":[1]}'):
            world.commit([SetData(world.layout.state_path("t"), data)])
            with pytest.raises(InvalidTask, match="task 't': its stored state cannot be read"):
                await client.look_up("t")


async def test_no_permission_is_said() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        world.forbidden.add("/m/states/")
        with pytest.raises(CoordinatorUnavailable, match=r"no auth .*credentials do not suffice"):
            await client.submit([Task("t")], again=False)


async def test_who_changes_the_same_things_for_ever() -> None:
    world = World()
    async with world.coordinator.open_client() as client:
        assert isinstance(client, ZooKeeperClient)
        await client.submit([Task("t")], again=False)
        world.end("t")
        connection, state = world.connections[-1], world.layout.state_path("t")
        assert isinstance(connection, Meddled)

        def be_faster(ops: Sequence[WriteOp]) -> None:
            world.commit([SetData(state, COMPLETED)])

        connection.before = be_faster
        with pytest.raises(CoordinatorUnavailable, match="10 times over"):
            await client.submit([Task("t")], again=True)
