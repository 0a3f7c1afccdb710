"""The requests of a session and the commands to it, over a scripted ZooKeeper, on virtual time."""

from __future__ import annotations

import json

import pytest
import trio

from metafora_trio import Command, CommandName, SessionLost, StateName, TaskState
from metafora_trio.contract import ClaimKind
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import Create, Delete
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.scripted_cluster import ScriptedCluster, own_claim

COMPLETED = TaskState(StateName.COMPLETED)


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


class TestRequests:
    async def test_a_claim_reads_ahead(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            await trio.sleep(0.1)
            connection.sent.clear()
            await own_claim(session, "t")
            record = await session.read("t")
            assert record is not None
            assert record.props == {"of": "t"}
            assert connection.sent == ["transact", "read"]

    async def test_what_was_read_ahead_is_forgotten_when_it_changes(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, _), cluster.coordinator.open_client() as client:
            await own_claim(session, "t")
            await trio.sleep(0.1)
            await client.delete("t")
            record = await session.read("t")
            assert record is not None
            assert record.deleted

    async def test_a_tombstone_that_is_read_is_in_the_view(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.coordinator.open_client() as client:
            await client.delete("t")
        async with cluster.session() as (session, _):
            assert not session.view.deleted("t")  # lists do not tell
            claim = await own_claim(session, "t")
            record = await session.read("t")
            assert record is not None
            assert (record.version, session.view.deleted("t")) == (1, True)
            session.finish(claim, None)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)

    async def test_what_was_asked_for_last_arrives_before_the_session_closes(self) -> None:
        """An end that is not recorded would be run again by somebody else. More of them than are in flight at once."""
        cluster = ScriptedCluster()
        await cluster.submit(*(f"t{n}" for n in range(200)))
        async with cluster.session() as (session, _):
            for task in list(session.view.tasks):
                session.claim(task)
            await eventually(session, lambda it: not it.pending)
            for claim in list(session.view.claims()):
                session.finish(claim, COMPLETED)
        layout = cluster.layout
        for n in range(200):
            assert layout.task_path(f"t{n}") not in cluster.tree
            assert TaskState.decode(cluster.tree[layout.state_path(f"t{n}")].data) == COMPLETED

    async def test_a_claim_that_is_gone_already_is_not_released(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, connection):
            claim = await own_claim(session, "t")
            cluster.commit([Delete(cluster.layout.claim_path(claim))])
            await eventually(session, lambda it: not it.view.head("t"))
            session.release(claim)
            assert session.outstanding == 0
            await trio.sleep(0.1)
            assert connection.number == 1

    async def test_only_own_claims_are_released(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session("a") as (a, _), cluster.session("a") as (b, _):
            claim = await own_claim(a, "t")
            await eventually(b, lambda it: it.view.head("t"))
            b.release(claim)
            await trio.sleep(0.1)
            assert (list(a.view.claims()), b.outstanding) == ([claim], 0)

    async def test_the_task_goes_before_the_claim(self) -> None:
        """Or the next in the queue would own it for a moment, and could start it once more."""
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, _):
            session.finish(await own_claim(session, "t"), COMPLETED)
            await eventually(session, lambda it: not it.view.tasks)
            last = next(outcome for outcome in reversed(cluster.log) if len(outcome.events) == 3)
            assert [path.split("/")[2] for _, path in last.events] == ["states", "tasks", "claims"]

    async def test_a_missing_state_record_is_made(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t", "u")
        states = {
            path.rpartition("/")[2]: path for path in cluster.tree if path.startswith("/m/states/0") and path[-2] == "/"
        }
        cluster.commit([Delete(states["t"]), Delete(states["u"])])
        async with cluster.session() as (session, _):
            for task in "tu":
                session.finish(await own_claim(session, task), COMPLETED if task == "t" else None)
            await eventually(session, lambda it: not it.view.tasks and not it.outstanding)
        assert TaskState.decode(cluster.tree[states["t"]].data) == COMPLETED
        assert states["u"] not in cluster.tree

    async def test_one_refused_unit_does_not_hold_up_the_others(self) -> None:
        """A hundred ends in one transaction, every tenth of a claim that is gone behind our back."""
        cluster = ScriptedCluster()
        tasks = [f"t{n}" for n in range(100)]
        await cluster.submit(*tasks)
        async with cluster.session() as (session, connection):
            claims = [await own_claim(session, task) for task in tasks]
            connection.numb = True
            layout = cluster.layout
            cluster.commit([Delete(layout.claim_path(claim)) for claim in claims[::10]])
            await trio.sleep(0.01)
            connection.numb = False
            for claim in claims:
                session.finish(claim, COMPLETED)
            await trio.sleep(1)
            assert session.outstanding == 0
            assert sorted(session.view.tasks) == sorted(tasks[::10])
            assert not any(session.is_leaving(claim) for claim in claims)

    async def test_no_permission_ends_the_session_loudly(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")

        async def life() -> None:
            async with cluster.session() as (session, _):
                layout = cluster.layout
                cluster.forbidden.add(layout.claim_prefix("t", session.node.identity, ClaimKind.CLAIM))
                session.claim("t")
                await trio.sleep(1)

        with pytest.raises(SessionLost, match="claiming task 't': no auth"):
            await life()

    async def test_a_second_request_for_the_same_thing_is_ignored(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, _):
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

    async def test_a_state_that_is_too_large_is_refused_at_once(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        async with cluster.session() as (session, _):
            claim = await own_claim(session, "t")
            state = TaskState.decode(
                json.dumps(
                    {
                        "state": "failed",
                        "errors": [{"timestamp": "2026-01-01T00:00:00+00:00", "error": "x" * 1_000_000}],
                    }
                ).encode()
            )
            with pytest.raises(ValueError, match="task 't' takes 1,000,"):
                session.finish(claim, state)
            assert not session.is_leaving(claim)

    async def test_claims_are_capped_by_their_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("metafora_trio_zookeeper._session.in_flight.MAX_SESSION_BYTES", 400)
        cluster = ScriptedCluster()
        await cluster.submit(*(f"t{n}" for n in range(20)))
        async with cluster.session() as (session, _):
            for _ in range(3):  # what is usual here is known once there are some
                for task in list(session.view.unclaimed):
                    session.claim(task)
                await eventually(session, lambda it: not it.pending)
            size = sum(len(path) + 4 for path in cluster.tree if "/claims/" in path and "~" in path)
            assert 300 < size <= 400
            session.claim("t19")
            assert (session.free_claims, session.pending) == (0, 0)
            held = len(list(session.view.claims()))
            for claim in list(session.view.claims()):
                session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.outstanding)
            await own_claim(session, "t19")
            assert session.free_claims == held - 1

    async def test_strange_names_are_ignored(self, caplog: pytest.LogCaptureFixture) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        names = [f"t~b.{'x' * 10}~c~0000000001", "nonsense", f"t~b.{'x' * 10}~z~0000000002", "t~b~c~0000000003"]
        async with cluster.session() as (session, _):
            wrong = next(b for b in cluster.layout.buckets if b != cluster.layout.bucket("t"))
            right = cluster.layout.bucket("t")
            cluster.commit(
                [Create(f"/m/claims/{wrong}/{names[0]}"), *(Create(f"/m/claims/{right}/{n}") for n in names[1:])]
            )
            cluster.commit([Create("/m/nodes/nobody"), Create("/m/node_commands/none"), Create(f"/m/tasks/{wrong}/t")])
            await trio.sleep(0.1)
            assert list(session.view.claims()) == []
            assert list(session.view.nodes) == [session.node.identity]
        async with cluster.session() as (session, _):  # listed, not told
            assert (list(session.view.claims()), list(session.view.tasks)) == ([], ["t"])
        assert all(caplog.text.count(repr(name)) == 2 for name in (names[0], names[1], "nobody", "none"))


class TestCommands:
    async def test_they_come_in_order_and_go(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, _), cluster.coordinator.open_client() as client:
            for name in (CommandName.FREEZE, CommandName.BALANCE):
                await client.send(session.node.identity, Command(name))
            await eventually(session, lambda it: len(it.queued_commands()) == 2)
            first, second = session.queued_commands()
            assert (first.command, second.command) == (Command("freeze"), Command("balance"))
            session.discard(first)
            assert session.queued_commands() == [second]
            await eventually(session, lambda it: not it.outstanding)
            assert [path for path in cluster.tree if path.startswith("/m/node_commands/")] == [
                f"/m/node_commands/{second.id}"
            ]

    async def test_they_are_there_after_a_reconnect(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection), cluster.coordinator.open_client() as client:
            cluster.refusing = True
            connection.cut()
            await client.send(session.node.identity, Command(CommandName.FREEZE))
            cluster.refusing = False
            await eventually(session, lambda it: it.queued_commands())

    async def test_one_that_cannot_be_read_is_there_without_a_command(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, _):
            cluster.commit([Create(f"/m/node_commands/{session.node.identity}~", b"?", sequential=True)])
            await eventually(session, lambda it: it.queued_commands())
            assert session.queued_commands()[0].command is None

    async def test_those_of_nodes_that_are_gone_are_removed_by_one_node(self) -> None:
        cluster = ScriptedCluster()
        gone = f"gone.{'x' * 10}"
        world_before = f"/m/node_commands/{gone}~"
        # The second to join is the first by name: it is the other who gets round to it first.
        async with cluster.session("b") as (b_session, b), cluster.session("a"):
            cluster.commit([Create(world_before, b"{}", sequential=True)])
            cluster.commit([Create(f"/m/node_commands/{b_session.node.identity}~", b"{}", sequential=True)])
            await trio.sleep(0.5)
            assert len([path for path in cluster.tree if path.startswith("/m/node_commands/")]) == 2
            await trio.sleep(2)
            assert [path for path in cluster.tree if path.startswith("/m/node_commands/")] == [
                f"/m/node_commands/{b_session.node.identity}~0000000001"
            ]
            assert "transact" not in b.sent[b.sent.index("heartbeat") :]
