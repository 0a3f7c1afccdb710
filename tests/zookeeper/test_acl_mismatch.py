"""A node that may not read what another creates does not join, because it would not see that node's claims.

ZooKeeper (from 3.8.4 on) sends no events of a znode to those who may not read it, although its name is listed.
"""

from __future__ import annotations

import pytest
import trio
from kazoo.security import CREATOR_ALL_ACL

from metafora_trio import CoordinatorUnavailable, LayoutMismatch, NodeInfo, Task
from metafora_trio.contract import Level
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Delete, EventType, SetData
from metafora_trio_zookeeper._layout import Layout
from metafora_trio_zookeeper.testing.real import Ensemble
from tests.support.zookeeper.claims import own_claim
from tests.support.zookeeper.connections import ask, connect

AUTH = [("digest", "node:password")]


async def test_what_the_server_hides(standalone: Ensemble, namespace: str) -> None:
    """A recursive watch shows nothing of a znode that may not be read. Lists show its name."""
    root = f"/{namespace}"
    async with (
        connect(standalone.hosts) as (stranger, recorder),
        connect(standalone.hosts, auth=AUTH, acl=CREATOR_ALL_ACL) as (owner, _),
    ):
        await ask(stranger.transact, [Create(root), Create(f"{root}/open")])
        await ask(stranger.add_watch, root)
        recorder.log.clear()
        await ask(
            owner.transact, [Create(f"{root}/secret"), SetData(f"{root}/secret", b"x"), SetData(f"{root}/open", b"x")]
        )
        assert sorted(await ask(stranger.children, root)) == ["open", "secret"]
        await ask(owner.transact, [Delete(f"{root}/secret")])
        await ask(owner.transact, [Delete(f"{root}/open")])
        await recorder.wait(lambda: len(recorder.log) == 2)
        assert recorder.log == [(EventType.CHANGED, f"{root}/open"), (EventType.DELETED, f"{root}/open")]


def coordinators(standalone: Ensemble, namespace: str) -> tuple[ZooKeeperCoordinator, ZooKeeperCoordinator]:
    """Return two coordinators for one namespace: one whose znodes are open, and one that keeps them for itself."""
    plain = ZooKeeperCoordinator(standalone.hosts, namespace=f"/{namespace}", session_timeout=4.0)
    closed = ZooKeeperCoordinator(
        standalone.hosts, namespace=f"/{namespace}", session_timeout=4.0, auth=AUTH, acl=CREATOR_ALL_ACL
    )
    return plain, closed


async def test_a_node_that_others_could_not_see_does_not_join(standalone: Ensemble, namespace: str) -> None:
    """The namespace is open, but this node would create its claims for itself alone. Clients of both kinds may come."""
    plain, closed = coordinators(standalone, namespace)
    async with plain.open_session(NodeInfo("plain")) as session:
        with pytest.raises(LayoutMismatch, match=r"was made with the ACL open, not with 31:auth:"):
            async with closed.open_session(NodeInfo("closed")):
                raise AssertionError
        async with closed.open_client() as client:
            await client.submit([Task("t")], again=False)
        await own_claim(session, "t")
        diagnosis = await closed.diagnose()
        assert Level.PROBLEM in [finding.level for finding in diagnosis.findings]


async def test_a_node_that_cannot_see_the_others_does_not_join(
    standalone: Ensemble, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directories are open, but the other node creates everything for itself alone."""
    plain, closed = coordinators(standalone, namespace)
    async with plain.open_client() as client:
        await client.submit([Task("other")], again=False)  # creates the namespace
    monkeypatch.setattr(Layout, "check_acl", lambda self: None)  # as if the namespace had been made before that check
    async with closed.open_session(NodeInfo("closed")) as session:
        await own_claim(session, "other")
        with pytest.raises(CoordinatorUnavailable, match=rf"may not read .*nodes/{session.node.identity}: no auth"):
            async with plain.open_session(NodeInfo("plain")):
                raise AssertionError
        assert session.current
        async with closed.open_session(NodeInfo("same")) as other:
            assert other.view.owner("other") == session.node.identity
        diagnosis = await plain.diagnose()
        (problem,) = [finding for finding in diagnosis.findings if finding.level is Level.PROBLEM]
        assert problem.text == f"cannot read the record of nodes: /{namespace}/nodes/{session.node.identity}"
    with trio.fail_after(20):
        async with plain.open_session(NodeInfo("plain")) as session:
            assert list(session.view.nodes) == [session.node.identity]
