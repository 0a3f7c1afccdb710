"""Claims without a node: those that belong to no session are removed, all others stay. On a simulated ensemble."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from metafora_trio import Claim
from metafora_trio.contract import ClaimKind, Finding, Level
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper._admin.diagnose import _contents
from metafora_trio_zookeeper._connection import Create, Delete
from metafora_trio_zookeeper._plain_connection import open_connection
from metafora_trio_zookeeper._replies import ask
from metafora_trio_zookeeper._session.session import ZooKeeperSession
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of

T = 4.0
GHOST = f"ghost.{'x' * 10}"


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


def claim_of(task: str, kind: ClaimKind = ClaimKind.CLAIM, seq: int = 7) -> Claim:
    return Claim(seq, task, GHOST, kind)


async def test_a_claim_made_by_hand_is_removed(lab: CoordinatorLab, caplog: pytest.LogCaptureFixture) -> None:
    """It is persistent, so it belongs to no session. The first node by name removes it, wherever in a queue it is."""
    await lab.submit("t", "u")
    async with lab.session("b") as (b, _), lab.session("a") as (a, _):
        own = await own_claim(a, "u")
        strays = [claim_of("t"), claim_of("u", ClaimKind.BID, own.seq + 5)]
        await lab.commit(*(Create(lab.layout.claim_path(claim)) for claim in strays))
        await trio.sleep(2 * T - 0.5)
        path_of = lab.layout.claim_path  # the token in a claim begins with the namespace's generation, and no path does
        assert set(map(path_of, b.view.claims())) == {path_of(own), *map(path_of, strays)}
        await eventually(b, lambda it: set(it.view.claims()) == {own})
        assert "t" in a.view.unclaimed
        assert caplog.text.count("that belongs to no session") == 2


async def test_a_claim_of_a_session_is_left_alone(lab: CoordinatorLab) -> None:
    """The session may be alive, even if its node's znode is missing."""
    await lab.submit("t")
    async with lab.session() as (session, _), open_connection(lab.connect, hosts="", patience=5) as connection:
        path = lab.layout.claim_path(claim_of("t"))
        await ask(lambda done: connection.transact([Create(path, ephemeral=True)], done))
        await trio.sleep(10 * T)
        head = session.view.head("t")
        assert head is not None
        assert lab.layout.claim_path(head) == path
        assert path in lab.tree
        findings = await _contents(connection, lab.layout)
        assert [finding.text for finding in findings if "without a node" in finding.text] == [
            f"claims of sessions without a node: {path}"
        ]


async def test_a_removal_that_is_refused_ends_no_session(lab: CoordinatorLab, caplog: pytest.LogCaptureFixture) -> None:
    await lab.submit("t")
    path = lab.layout.claim_path(claim_of("t"))
    await lab.commit(Create(path))
    lab.zookeeper.forbidden.writing.add(path.rpartition("/")[0])
    async with lab.session() as (session, _):
        await trio.sleep(5 * T)
        assert session.current
        assert "cannot remove the claim for task 't': no auth" in caplog.text
        lab.zookeeper.forbidden.reading.add(path)  # then it cannot be seen whose it is
        lab.zookeeper.forbidden.writing.clear()
        await trio.sleep(5 * T)
        assert path in lab.tree
        lab.zookeeper.forbidden.reading.clear()
        await trio.sleep(3 * T)
        assert path not in lab.tree


async def test_a_reconnect_during_the_look(lab: CoordinatorLab) -> None:
    await lab.submit("t")
    path = lab.layout.claim_path(claim_of("t"))
    async with lab.session() as (session, connection):
        await lab.commit(Create(path))
        for _ in range(40):
            await trio.sleep(T / 4 - 0.0005)
            connection.drop()
            await eventually(session, lambda it: it.current)
        await trio.sleep(3 * T)
        assert path not in lab.tree


async def test_doctor_shows_claims_made_by_hand(lab: CoordinatorLab) -> None:
    await lab.submit("t")
    paths = [lab.layout.claim_path(claim_of("t", seq=number)) for number in range(5)]
    async with lab.session(), open_connection(lab.connect, hosts="", patience=5) as connection:
        await lab.commit(*map(Create, paths))
        found = [finding for finding in await _contents(connection, lab.layout) if "no session" in finding.text]
        assert found == [
            Finding(
                Level.WARNING,
                f"claims that belong to no session: {', '.join(paths[:3])} and 2 more",
                "not ephemeral, so somebody made them by hand; a node removes them after two session timeouts",
            )
        ]
        lab.zookeeper.forbidden.reading.update(paths)
        found = [finding for finding in await _contents(connection, lab.layout) if "claims" in finding.text]
        assert [(finding.level, finding.text) for finding in found] == [
            (Level.PROBLEM, f"claims without a node that cannot be read: {', '.join(paths[:3])} and 2 more")
        ]


async def test_a_claim_made_by_hand_behind_many_of_a_session_is_removed(lab: CoordinatorLab) -> None:
    """Every claim of a missing node is looked at, however many requests that takes."""
    await lab.submit("t")
    claims = [claim_of("t", seq=number) for number in range(1, 201)]
    async with lab.session() as (session, _), open_connection(lab.connect, hosts="", patience=5) as connection:
        for claim in claims[:-1]:
            path = lab.layout.claim_path(claim)
            await ask(lambda done, path=path: connection.transact([Create(path, ephemeral=True)], done))  # type: ignore[misc]
        await lab.commit(Create(lab.layout.claim_path(claims[-1])))
        await eventually(session, lambda it: len(it.view.queue("t")) == 200)
        await eventually(session, lambda it: len(it.view.queue("t")) == 199)
        assert lab.layout.claim_path(claims[-1]) not in lab.tree


@pytest.mark.parametrize("joins_before", [True, False])
async def test_a_node_made_by_hand_is_no_node(lab: CoordinatorLab, joins_before: bool) -> None:
    """It is persistent, so it belongs to no session. If it counted, it would be the first node by name and have room:
    nobody would do the upkeep, and half of all new tasks would wait for it."""
    await lab.submit("t")
    by_hand = f"0.{'a' * 10}"
    path = lab.layout.node_path(by_hand)
    stray = lab.layout.claim_path(claim_of("t"))
    if not joins_before:
        await lab.commit(Create(path), Create(stray))
    async with lab.session() as (session, connection):
        if joins_before:
            await lab.commit(Create(path), Create(stray))
        assert list(session.view.nodes) == [session.node.identity]
        await eventually(session, lambda it: "t" in it.view.unclaimed)
        connection.drop()
        await eventually(session, lambda it: not it.current)
        await eventually(session, lambda it: it.current)
        assert list(session.view.nodes) == [session.node.identity]
    async with open_connection(lab.connect, hosts="", patience=5) as plain:
        (found,) = [finding for finding in await _contents(plain, lab.layout) if "nodes" in finding.text]
        assert (found.level, found.text) == (Level.WARNING, f"nodes that belong to no session: {path}")


async def test_commands_that_went_while_disconnected_are_forgotten(lab: CoordinatorLab) -> None:
    await lab.submit("t")
    async with lab.session() as (session, connection):
        assert isinstance(session, ZooKeeperSession)
        names = [f"{session.node.name}.{'z' * 10}~{number:010}" for number in (1, 2)]
        paths = [lab.layout.node_command_path(name) for name in names]
        await lab.commit(*map(Create, paths))
        others = session._live.queued_commands.others
        assert list(others) == names
        seen = others[names[1]]
        connection.drop()
        async with open_connection(lab.connect, hosts="", patience=5) as plain:
            await ask(lambda done: plain.transact([Delete(paths[0])], done))
        await eventually(session, lambda it: not it.current)
        await eventually(session, lambda it: it.current)
        assert session._live.queued_commands.others == {names[1]: seen}
