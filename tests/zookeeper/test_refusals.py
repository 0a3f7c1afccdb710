"""Requests that ZooKeeper refuses: those about one task, a record or a command end no session, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from metafora_trio import Command, CommandName, Consumer, RunningTask, SessionLost, StateName, TaskState
from metafora_trio.contract import Claim, ClaimKind, TaskRefused
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._connection import Create, Delete, SetData
from metafora_trio_zookeeper._layout import TOMBSTONE
from metafora_trio_zookeeper._session.refusals import Refusals
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of
from tests.support.zookeeper.scripted_cluster import ScriptedCluster

COMPLETED = TaskState(StateName.COMPLETED)
AUDIT = 2 * 4 * 5.0 + 1
"""Seconds until the audit has compared all directories of this namespace."""


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


@pytest.fixture
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


class TestReading:
    async def test_a_task_that_may_not_be_read(self, lab: CoordinatorLab) -> None:
        await lab.submit("t", "u")
        lab.zookeeper.forbidden.reading.add(lab.layout.task_path("t"))
        async with lab.session() as (session, connection):
            for task in "tu":  # both are read ahead, in one request
                session.claim(task)
            await eventually(session, lambda it: not it.pending)
            for _ in range(2):
                with pytest.raises(TaskRefused, match="cannot read task 't': no auth"):
                    await session.read("t")
            record = await session.read("u")
            assert record is not None
            assert record.props == {"of": "u"}
            lab.zookeeper.forbidden.reading.clear()
            record = await session.read("t")
            assert record is not None
            assert record.props == {"of": "t"}
            assert (connection.number, session.current) == (1, True)

    async def test_a_cancelled_read_leaves_no_refusal_behind(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        lab.zookeeper.forbidden.reading.add(lab.layout.task_path("t"))
        async with lab.session() as (session, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.read, "t")
                await trio.sleep(0.0005)
                nursery.cancel_scope.cancel()
            await trio.sleep(0.1)
            lab.zookeeper.forbidden.reading.clear()
            assert await session.read("t") is not None

    async def test_a_resync_with_a_task_that_may_not_be_read(self, lab: CoordinatorLab) -> None:
        await lab.submit("t", "u")
        async with lab.session() as (session, connection):
            claims = [await own_claim(session, task) for task in "tu"]
            lab.zookeeper.forbidden.reading.add(lab.layout.task_path("t"))
            for path in map(lab.layout.task_path, "tu"):
                await lab.commit(SetData(path, TOMBSTONE, 0))
            connection.drop()
            await eventually(session, lambda it: not it.current)
            await eventually(session, lambda it: it.current)
            assert [session.view.head(task) for task in "tu"] == claims
            assert session.view.tasks == {"t": False, "u": True}
            lab.zookeeper.forbidden.reading.clear()
            await eventually(session, lambda it: it.view.deleted("t"))

    async def test_the_audit_drops_no_connection_for_it(self, lab: CoordinatorLab) -> None:
        """A server hides that such a task comes and goes, so the view differs from the list. That is no lost event."""
        await lab.submit("t")
        path = lab.layout.task_path("hidden")
        forbidden = lab.zookeeper.forbidden
        forbidden.reading.add(path)
        forbidden.events.add(path)
        async with lab.session() as (session, connection):
            await lab.commit(Create(path))
            assert session.view.tasks == {"t": False}
            await trio.sleep(AUDIT)
            assert session.view.tasks == {"t": False, "hidden": False}
            await lab.commit(Delete(path))
            await trio.sleep(AUDIT)
            assert session.view.tasks == {"t": False}
            assert connection.number == 1


class TestClaims:
    @pytest.mark.parametrize("losing", [True, False])
    async def test_another_claim_that_may_not_be_read(self, lab: CoordinatorLab, losing: bool) -> None:
        """Somebody has made it by hand. This node gives its own up all the same, and keeps its session."""
        await lab.submit("t")
        async with lab.session() as (session, _):
            session.release(await own_claim(session, "t"))
            await eventually(session, lambda it: "t" in it.view.unclaimed)
            own = await own_claim(session, "t")
            number = 0 if losing else 2**31 - 2
            path = lab.layout.claim_path(Claim(number, "t", f"ghost.{'x' * 10}", ClaimKind.BID))
            await lab.commit(Create(path))
            await eventually(session, lambda it: len(it.view.queue("t")) == 2)
            (other,) = set(session.view.queue("t")) - {own}
            lab.zookeeper.forbidden.reading.add(path)
            if losing:
                session.withdraw(own, other)
            else:
                session.hand_over(own, other)
            await eventually(session, lambda it: list(it.view.queue("t")) == [other] and not it.outstanding)
            assert session.current


async def rival_of(claim: Claim, lab: CoordinatorLab) -> Claim:
    """Make another claim for the same task, behind this one."""
    other = replace(claim, seq=claim.seq + 7, node=f"b.{'x' * 10}")
    await lab.commit(Create(lab.layout.claim_path(other)))
    return other


async def delete_unseen(claim: Claim, lab: CoordinatorLab) -> None:
    """Delete a claim, and send nobody the event."""
    path = lab.layout.claim_path(claim)
    lab.zookeeper.forbidden.events.add(path)
    await lab.commit(Delete(path))


class TestEnds:
    async def test_a_znode_below_the_task(self, lab: CoordinatorLab) -> None:
        """Nobody but a human creates one. The claim stays until the task can be removed."""
        await lab.submit("t", "u")
        path = lab.layout.task_path("t")
        await lab.commit(Create(f"{path}/note"))
        async with lab.session() as (session, _):
            for task in "tu":
                session.finish(await own_claim(session, task), COMPLETED)
            await eventually(session, lambda it: it.refusals and "u" not in it.view.tasks)
            assert session.refusals == {"t": f"not empty at {path}"}
            claim = session.view.head("t")
            assert claim is not None
            assert (session.is_leaving(claim), session.outstanding) == (True, 0)
            session.finish(claim, COMPLETED)
            session.hand_over(claim, replace(claim, seq=99))
            assert session.outstanding == 0
            await lab.commit(Delete(f"{path}/note"))
            await eventually(session, lambda it: not it.is_leaving(claim))
            assert "t" in session.refusals
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: "t" not in it.view.tasks)
            assert session.refusals == {}
            assert TaskState.decode(lab.tree[lab.layout.state_path("t")].data) == COMPLETED

    async def test_the_session_leaves_at_once(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        lab.zookeeper.forbidden.writing.add(lab.layout.state_path("t"))
        async with lab.session() as (session, _):
            session.finish(await own_claim(session, "t"), COMPLETED)
            await eventually(session, lambda it: it.refusals)
            began = trio.current_time()
        assert trio.current_time() - began < 0.1

    async def test_a_state_that_can_neither_be_set_nor_created(self, lab: CoordinatorLab) -> None:
        await lab.submit("t")
        path = lab.layout.state_path("t")
        await lab.commit(Delete(path))
        lab.zookeeper.forbidden.writing.add(path.rpartition("/")[0])
        async with lab.session() as (session, _):
            session.finish(await own_claim(session, "t"), COMPLETED)
            await eventually(session, lambda it: it.refusals)
            assert session.refusals == {"t": f"no auth at {path}"}

    async def test_a_directory_of_states_that_is_missing(self, lab: CoordinatorLab) -> None:
        """Neither set nor created, the state is refused like any other, and the end is not tried in a loop."""
        await lab.submit("t")
        path = lab.layout.state_path("t")
        await lab.commit(Delete(path), Delete(path.rpartition("/")[0]))
        async with lab.session() as (session, connection):
            claim = await own_claim(session, "t")
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.outstanding)
            assert session.refusals == {"t": f"no node at {path}"}
            assert session.is_leaving(claim)
            await lab.commit(Create(path.rpartition("/")[0]))
            await eventually(session, lambda it: not it.is_leaving(claim))
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: "t" not in it.view.tasks)
            assert connection.number == 1

    async def test_a_task_that_has_gone_unseen(self, lab: CoordinatorLab) -> None:
        """A server hides the events of what may not be read. The refused end shows that the task is gone."""
        await lab.submit("t")
        path = lab.layout.task_path("t")
        async with lab.session() as (session, connection):
            claim = await own_claim(session, "t")
            lab.zookeeper.forbidden.events.add(path)
            await lab.commit(Delete(path))
            assert "t" in session.view.tasks
            session.finish(claim, COMPLETED)
            await eventually(session, lambda it: not it.outstanding)
            assert "t" not in session.view.tasks
            assert (session.refusals, session.is_leaving(claim)) == ({}, False)
            assert connection.number == 1

    @pytest.mark.parametrize("what", ["finish", "hand_over", "release"])
    async def test_an_own_claim_that_has_gone_unseen(self, lab: CoordinatorLab, what: str) -> None:
        """No server loses this event. If it happens, the view is wrong, and everything is listed again."""
        await lab.submit("t")
        async with lab.session() as (session, connection):
            claim = await own_claim(session, "t")
            other = await rival_of(claim, lab)
            await delete_unseen(claim, lab)
            if what == "finish":
                session.finish(claim, COMPLETED)
            elif what == "hand_over":
                session.hand_over(claim, other)
            else:
                session.release(claim)
            await eventually(session, lambda it: claim not in it.view.queue("t"))
            assert connection.number == 2
            assert "t" in session.view.tasks

    @pytest.mark.parametrize("what", ["withdraw", "hand_over"])
    async def test_another_claim_that_has_gone_unseen(self, lab: CoordinatorLab, what: str) -> None:
        """The condition of a handover or a withdrawal fails, and the view must show why. Otherwise the node would ask
        for the same again and again."""
        await lab.submit("t")
        async with lab.session() as (session, connection):
            claim = await own_claim(session, "t")
            other = await rival_of(claim, lab)
            await delete_unseen(other, lab)
            if what == "withdraw":
                session.withdraw(claim, other)
            else:
                session.hand_over(claim, other)
            await eventually(session, lambda it: other not in it.view.queue("t"))
            assert connection.number == 2
            assert list(session.view.queue("t")) == [claim]
            assert not session.is_leaving(claim)

    async def test_after_a_reconnect_it_is_tried_at_once(self, lab: CoordinatorLab) -> None:
        await lab.submit("t", "u")
        paths = [lab.layout.state_path(task) for task in "tu"]
        lab.zookeeper.forbidden.writing.update(paths)
        async with lab.session() as (session, connection):
            claims = [await own_claim(session, task) for task in "tu"]
            for claim in claims:
                session.finish(claim, COMPLETED)
            await eventually(session, lambda it: len(it.refusals) == 2)
            connection.drop()
            await lab.commit(Delete(lab.layout.claim_path(claims[1])))
            await eventually(session, lambda it: not it.current)
            await eventually(session, lambda it: it.current)
            assert list(session.refusals) == ["t"]
            assert not session.is_leaving(claims[0])

    @pytest.mark.usefixtures("_virtual_time")
    async def test_a_claim_that_may_not_be_deleted_ends_the_session(self) -> None:
        """The directory of the claims belongs to the session, and without its permissions nothing works."""
        cluster = ScriptedCluster()
        await cluster.submit("t")

        async def life() -> None:
            async with cluster.session() as (session, _):
                claim = await own_claim(session, "t")
                cluster.forbidden.add(cluster.layout.claim_prefix("t", session.node.identity, ClaimKind.CLAIM))
                session.finish(claim, COMPLETED)
                await trio.sleep(1)

        with pytest.raises(SessionLost, match="giving up task 't': no auth"):
            await life()

    @pytest.mark.usefixtures("_virtual_time")
    async def test_a_node_that_is_cancelled_does_not_wait_for_a_refused_end(self) -> None:
        cluster = ScriptedCluster()
        await cluster.submit("t")
        cluster.forbidden.add(cluster.layout.state_path("t"))

        async def handler(task: RunningTask) -> None:
            await trio.lowlevel.checkpoint()

        consumer = Consumer(cluster.coordinator, handler, rng=random.Random(1), settle=0.0)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: consumer.run(task_status=task_status))
            await trio.sleep(5)
            assert consumer._membership is not None
            assert list(consumer._membership.session.refusals) == ["t"]
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 0.1


class TestRefusals:
    async def test_a_later_claim_starts_from_the_beginning(self, autojump_clock: trio.testing.MockClock) -> None:
        again: list[str] = []
        refusals = Refusals(again.append)
        first, second = (Claim(seq, "t", "a.1", ClaimKind.CLAIM) for seq in (1, 2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refusals.run)
            for claim, seconds in ((first, 1.0), (first, 2.0), (second, 1.0)):
                refusals.refused(claim, "no auth")
                await trio.sleep(seconds - 0.01)
                assert refusals.holds(claim)
                await trio.sleep(0.02)
                assert not refusals.holds(claim)
            assert not refusals.holds(first)
            refusals.gone(first)
            assert refusals.reasons == {"t": "no auth"}
            refusals.gone(second)
            assert (refusals.reasons, again) == ({}, ["t", "t", "t"])
            nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_virtual_time")
class TestRecords:
    async def test_a_node_whose_record_may_not_be_read(self, caplog: pytest.LogCaptureFixture) -> None:
        cluster = ScriptedCluster()
        async with cluster.session("a") as (a, connection):
            async with cluster.session("b") as (b, _):
                await eventually(a, lambda it: len(it.view.nodes) == 2)
                path = f"/m/nodes/{b.node.identity}"
                cluster.unreadable.add(path)
                b.announce(replace(b.node, draining=True))
                await trio.sleep(0.1)
                assert not a.view.nodes[b.node.identity].draining
                connection.cut()
                await eventually(a, lambda it: not it.current)
                await eventually(a, lambda it: it.current)
                assert b.node.identity in a.view.nodes
            assert f"cannot read the record of node {b.node.identity}: no auth" in caplog.text

    async def test_a_command_that_may_be_neither_read_nor_removed(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is passed on once, as unreadable, and then ignored, also by the nodes that outlive its addressee."""
        cluster = ScriptedCluster()
        async with cluster.session("a") as (other, _):
            async with cluster.session("b") as (session, connection), cluster.coordinator.open_client() as client:
                name = f"{session.node.identity}~0000000000"
                cluster.unreadable.add(f"/m/node_commands/{name}")
                await client.send(session.node.identity, Command(CommandName.FREEZE))
                await eventually(session, lambda it: it.queued_commands())
                (queued,) = session.queued_commands()
                assert (queued.id, queued.command) == (name, None)
                cluster.forbidden.add("/m/node_commands/")
                session.discard(queued)
                await eventually(session, lambda it: not it.outstanding)
                assert session.queued_commands() == []
                connection.cut()
                await eventually(session, lambda it: not it.current)
                await eventually(session, lambda it: it.current)
                session.discard(queued)
                assert (session.outstanding, session.queued_commands()) == (0, [])
            await trio.sleep(10)
            assert other.current
            assert caplog.text.count(f"cannot remove the command {name}: no auth") == 2  # once by each of the two nodes
