"""ZooKeeperCoordinator keeps the contract that every coordinator keeps."""

from __future__ import annotations

import pytest

from metafora_trio.testing.conformance import CoordinatorConformance, Subject
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper.testing.real import Ensemble
from tests.support.zookeeper.sessions import expire


class TestOnOneServer(CoordinatorConformance):
    @pytest.fixture
    def subject(self, standalone: Ensemble, namespace: str) -> Subject:
        return Subject(ZooKeeperCoordinator(standalone.hosts, namespace=f"/{namespace}", session_timeout=4), expire)


class TestOnThreeServers(CoordinatorConformance):
    @pytest.fixture
    def subject(self, ensemble: Ensemble, namespace: str) -> Subject:
        return Subject(ZooKeeperCoordinator(ensemble.hosts, namespace=f"/{namespace}", session_timeout=4), expire)
