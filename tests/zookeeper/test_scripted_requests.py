"""The requests of a session and the commands to it, where the servers must follow a script, on virtual time."""

from __future__ import annotations

import pytest
import trio

from metafora_trio import Command, CommandName, SessionLost, StateName, TaskState
from metafora_trio.contract import ClaimKind
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import Create, SetData
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.scripted_cluster import ScriptedCluster

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

    async def test_one_refused_unit_does_not_hold_up_the_others(self) -> None:
        """A hundred tasks end in one transaction, but every tenth has been changed by another client."""
        cluster = ScriptedCluster()
        tasks = [f"t{n}" for n in range(100)]
        await cluster.submit(*tasks)
        async with cluster.session() as (session, connection):
            claims = [await own_claim(session, task) for task in tasks]
            connection.numb = True
            layout = cluster.layout
            cluster.commit([SetData(layout.task_path(claim.task), b'{"other": 1}') for claim in claims[::10]])
            await trio.sleep(0.01)
            connection.numb = False
            for claim in claims:
                session.finish(claim, COMPLETED)
            await trio.sleep(1)
            assert session.outstanding == 0
            assert sorted(session.view.tasks) == sorted(tasks[::10])
            assert not any(session.is_leaving(claim) for claim in claims)

    async def test_a_missing_permission_ends_the_session_with_that_reason(self) -> None:
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


class TestCommands:
    async def test_they_are_there_after_a_reconnect(self) -> None:
        cluster = ScriptedCluster()
        async with cluster.session() as (session, connection), cluster.coordinator.open_client() as client:
            cluster.refusing = True
            connection.cut()
            await client.send(session.node.identity, Command(CommandName.FREEZE))
            cluster.refusing = False
            await eventually(session, lambda it: it.queued_commands())

    async def test_those_for_nodes_that_are_gone_are_removed_by_one_node(self) -> None:
        cluster = ScriptedCluster()
        gone = f"gone.{'x' * 10}"
        world_before = f"/m/node_commands/{gone}~"
        # The node that joined first would act first, but the second is the first by name.
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
