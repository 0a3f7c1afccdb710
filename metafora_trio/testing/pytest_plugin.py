"""The pytest plugin: the fixture `metafora_cluster`, a whole cluster on virtual time.

pytest finds it through the entry point `metafora`, without any configuration, and loads it in every test run of
everybody who has this package installed. So the plugin itself imports nothing of `metafora_trio.testing`, parts of
which use private names of Trio that another Trio might not have. Only the fixture does, when a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from metafora_trio import Handler
    from metafora_trio.testing.simulation import SimulatedCluster

__all__ = ["metafora_cluster"]


@pytest.fixture
def metafora_cluster() -> Iterator[Callable[..., SimulatedCluster]]:
    """Makes clusters: `cluster = metafora_cluster(handler, nodes=3)`.

    The arguments are those of `metafora_trio.testing.simulation.SimulatedCluster`. The broker is in memory unless
    `broker` says otherwise: `broker=ZooKeeperBroker`. The clusters are closed after the test. What their nodes were
    doing is then cut short, so a test that cares how things end calls `settle`.
    """
    from metafora_trio.testing.simulation import SimulatedCluster

    with ExitStack() as opened:

        def open_cluster(handler: Handler | None = None, **options: Any) -> SimulatedCluster:
            return opened.enter_context(SimulatedCluster(handler, **options))

        yield open_cluster
