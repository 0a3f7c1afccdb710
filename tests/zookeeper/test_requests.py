"""The requests of a session and the commands to it, on a simulated ensemble."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
import trio

from metafora_trio import Command, CommandName, NodeInfo, StateName, Task, TaskError, TaskState
from metafora_trio._model.plan import plan
from metafora_trio._model.props import MAX_PROPS_BYTES
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import Create, Delete, SetData
from metafora_trio_zookeeper._plain_connection import open_connection
from metafora_trio_zookeeper._replies import ask
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of

COMPLETED = TaskState(StateName.COMPLETED)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


class TestRequests:
    async def test_a_record_that_was_read_ahead_is_dropped_when_it_changes(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        async with lab.session() as (session, _), lab.coordinator.open_client() as client:
            await own_claim(session, "t")
            await trio.sleep(0.1)
            assert await client.delete(["t"]) == []
            await eventually(session, lambda it: it.view.deleted("t"))
            record = await session.read("t")
            assert record is not None
            assert record.deleted

    async def test_a_tombstone_that_is_read_is_in_the_view(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        async with lab.coordinator.open_client() as client:
            assert await client.delete(["t"]) == []
        async with lab.session() as (session, _):
            assert not session.view.deleted("t")  # lists do not show tombstones
            claim = await own_claim(session, "t")
            record = await session.read("t")
            assert record is not None
            assert (record.version, session.view.deleted("t")) == (1, True)
            session.finish(claim, None)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)

    async def test_the_last_requests_arrive_before_the_session_closes(self, lab: CoordinatorLab) -> None:
        """Otherwise another node would run the tasks again. There are more requests than fit in flight at once."""
        await lab.submit(*(f"t{n}" for n in range(200)))
        async with lab.session() as (session, _):
            for task in list(session.view.tasks):
                session.claim(task)
            await eventually(session, lambda it: not it.pending)
            for claim in list(session.view.claims()):
                session.finish(claim, COMPLETED)
        layout = lab.layout
        for n in range(200):
            assert layout.task_path(f"t{n}") not in lab.tree
            assert TaskState.decode(lab.tree[layout.state_path(f"t{n}")].data) == COMPLETED

    async def test_a_claim_that_is_gone_already_is_not_released(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        async with lab.session() as (session, connection):
            claim = await own_claim(session, "t")
            await lab.commit(Delete(lab.layout.claim_path(claim)))
            await eventually(session, lambda it: not it.view.head("t"))
            session.release(claim)
            assert session.outstanding == 0
            await trio.sleep(0.1)
            assert connection.number == 1

    async def test_only_own_claims_are_released(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        async with lab.session("a") as (a, _), lab.session("a") as (b, _):
            claim = await own_claim(a, "t")
            await eventually(b, lambda it: it.view.head("t"))
            b.release(claim)
            await trio.sleep(0.1)
            assert (list(a.view.claims()), b.outstanding) == ([claim], 0)

    async def test_the_task_goes_before_the_claim(self, lab: CoordinatorLab) -> None:
        """Otherwise the next in the queue would own it for a moment and could start it again."""
        await lab.submit("t")
        async with lab.session() as (session, _):
            session.finish(await own_claim(session, "t"), COMPLETED)
            await eventually(session, lambda it: not it.view.tasks)
            last = next(outcome for outcome in reversed(lab.zookeeper.log) if len(outcome.events) == 3)
            assert [path.split("/")[2] for _, path in last.events] == ["states", "tasks", "claims"]

    async def test_a_missing_state_record_is_made(self, lab: CoordinatorLab) -> None:
        await lab.submit("t", "u")
        states = {
            path.rpartition("/")[2]: path for path in lab.tree if path.startswith("/m/states/0") and path[-2] == "/"
        }
        await lab.commit(Delete(states["t"]), Delete(states["u"]))
        async with lab.session() as (session, _):
            for task in "tu":
                session.finish(await own_claim(session, task), COMPLETED if task == "t" else None)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)
        assert TaskState.decode(lab.tree[states["t"]].data) == COMPLETED
        assert states["u"] not in lab.tree

    async def test_a_second_request_for_the_same_thing_is_ignored(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        async with lab.session() as (session, _):
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

    async def test_any_state_fits_into_one_request(self, lab: CoordinatorLab) -> None:
        """The largest properties and the longest tracebacks, all of characters that take most bytes, can be stored."""
        name = "t" * 128
        await lab.submit(name)
        async with lab.session("a" * 128) as (session, _), lab.coordinator.open_client() as client:
            claim = await own_claim(session, name)
            error = TaskError(
                datetime.datetime.max.replace(tzinfo=datetime.UTC),
                "\U0001f600" * 5_000_000,
                "\U0001f600" * 5_000_000,
                "\udce9\U0001f600" * 5_000_000,
            )
            props = {"": "\xfc" * (MAX_PROPS_BYTES // 2 - 4)}
            assert len(Task("t", props).encoded) == MAX_PROPS_BYTES - 1
            state = TaskState(StateName.FAILED, [error] * 50, props, session.node.identity, 2**64 - 1)
            session.finish(claim, state)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)
            (snapshot,) = await client.look_up([name])
            stored = snapshot.state
            assert stored is not None
            assert (stored.state, stored.props, len(stored.errors)) == (StateName.FAILED, props, 1)
            assert stored.errors[0].error == "\U0001f600" * 1000

    async def test_claims_are_capped_by_their_size(self, lab: CoordinatorLab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("metafora_trio_zookeeper._session.in_flight.MAX_SESSION_BYTES", 400)
        await lab.submit(*(f"t{n}" for n in range(20)))
        async with lab.session() as (session, _):
            for _ in range(3):  # the average is known once there are some
                for task in list(session.view.unclaimed):
                    session.claim(task)
                await eventually(session, lambda it: not it.pending)
            size = sum(len(path) + 4 for path in lab.tree if "/claims/" in path and "~" in path)
            assert 300 < size <= 400
            session.claim("t19")
            assert (session.free_claims, session.pending) == (0, 0)
            held = len(list(session.view.claims()))
            for claim in list(session.view.claims()):
                session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.outstanding)
            await own_claim(session, "t19")
            assert session.free_claims == held - 1

    async def test_strange_names_are_ignored(self, lab: CoordinatorLab, caplog: pytest.LogCaptureFixture) -> None:
        await lab.submit("t")
        names = [f"t~b.{'x' * 10}~c~0000000001", "nonsense", f"t~b.{'x' * 10}~z~0000000002", "t~b~c~0000000003"]
        async with lab.session() as (session, _):
            wrong = next(b for b in lab.layout.buckets if b != lab.layout.bucket("t"))
            right = lab.layout.bucket("t")
            await lab.commit(
                Create(f"/m/claims/{wrong}/{names[0]}"), *(Create(f"/m/claims/{right}/{n}") for n in names[1:])
            )
            await lab.commit(Create("/m/nodes/nobody"), Create("/m/node_commands/none"), Create(f"/m/tasks/{wrong}/t"))
            await trio.sleep(0.1)
            assert list(session.view.claims()) == []
            assert list(session.view.nodes) == [session.node.identity]
        async with lab.session() as (session, _):  # these names come from lists, not from events
            assert (list(session.view.claims()), list(session.view.tasks)) == ([], ["t"])
        assert all(caplog.text.count(repr(name)) == 2 for name in (names[0], names[1], "nobody", "none"))

    async def test_a_node_that_cannot_be_read_ends_no_other(self, lab: CoordinatorLab) -> None:
        """Any record of a node is survived, found by an event or by a list. Its node gets no tasks, and says why."""
        records = [b'{"capacity": 1e999}', b"{" * 5000, b"\xff", b'{"since": true}', b'{"capacity": -3}']
        paths = [f"/m/nodes/odd.{number:010}" for number in range(len(records))]
        async with lab.session() as (session, _), open_connection(lab.connect, hosts="", patience=5) as plain:
            nodes = [Create(path, record, ephemeral=True) for path, record in zip(paths, records, strict=True)]
            await ask(lambda done: plain.transact(nodes, done))
            await eventually(session, lambda it: len(it.view.nodes) == len(records) + 1)
            async with lab.session("b") as (other, _):
                for view in (session.view, other.view):
                    odd = [node for node in view.nodes.values() if node.name == "odd"]
                    assert [node.full for node in odd] == [True] * len(records)
                    assert all(node.notices[0].startswith("its record cannot be read: ") for node in odd)
                    assert plan(view, session.node.identity) == {}
            await lab.commit(
                SetData(paths[0], NodeInfo("odd").encode())
            )  # once it can be read, it is a node like others
            await eventually(session, lambda it: not it.view.nodes["odd.0000000000"].full)


class TestCommands:
    async def test_they_come_in_order_and_go(self, lab: CoordinatorLab) -> None:
        async with lab.session() as (session, _), lab.coordinator.open_client() as client:
            for name in (CommandName.FREEZE, CommandName.BALANCE):
                await client.send(session.node.identity, Command(name))
            await eventually(session, lambda it: len(it.queued_commands()) == 2)
            first, second = session.queued_commands()
            assert (first.command, second.command) == (Command("freeze"), Command("balance"))
            session.discard(first)
            assert session.queued_commands() == [second]
            await eventually(session, lambda it: not it.outstanding)
            assert [path for path in lab.tree if path.startswith("/m/node_commands/")] == [
                f"/m/node_commands/{second.id}"
            ]

    async def test_one_that_cannot_be_read_is_queued_without_a_command(self, lab: CoordinatorLab) -> None:
        async with lab.session() as (session, _):
            await lab.commit(Create(f"/m/node_commands/{session.node.identity}~", b"?", sequential=True))
            await eventually(session, lambda it: it.queued_commands())
            assert session.queued_commands()[0].command is None
