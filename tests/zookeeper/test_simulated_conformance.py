"""ZooKeeperCoordinator keeps the contract on the simulated ensemble too, so also where no ZooKeeper is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio.testing.conformance import CoordinatorConformance, Subject
from tests.support.zookeeper.coordinator_lab import lab_of


class TestOnSimulatedServers(CoordinatorConformance):
    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Iterator[Subject]:
        with lab_of(request.node) as lab:
            yield Subject(lab.coordinator, lab.expire)
