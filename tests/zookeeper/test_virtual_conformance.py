"""ZooKeeperCoordinator keeps the contract on virtual time too, without an installed ZooKeeper.

Both the simulated and the scripted ensemble pass the same suite as real ZooKeeper.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from metafora_trio.contract import Session
from metafora_trio.testing.conformance import CoordinatorConformance, Subject
from metafora_trio_zookeeper._session.session import ZooKeeperSession
from tests.support.virtual_time import use_virtual_time
from tests.support.zookeeper.coordinator_lab import lab_of
from tests.support.zookeeper.scripted_cluster import ScriptedCluster
from tests.support.zookeeper.scripted_zookeeper import ScriptedConnection


class TestOnSimulatedServers(CoordinatorConformance):
    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Iterator[Subject]:
        with lab_of(request.node) as lab:
            yield Subject(lab.coordinator, lab.expire)


class TestOnAScriptedServer(CoordinatorConformance):
    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        use_virtual_time(request.node)

        async def expire(session: Session) -> None:
            await trio.lowlevel.checkpoint()
            assert isinstance(session, ZooKeeperSession)
            assert isinstance(session._connection, ScriptedConnection)
            session._connection.expire()

        return Subject(ScriptedCluster().coordinator, expire)
