"""The pytest plugin: provides the fixture `metafora_cluster`, a whole cluster on virtual time.

pytest finds the plugin through the entry point `metafora`, without configuration, and loads it in every test run
wherever this package is installed. The plugin therefore imports nothing else from `metafora_trio.testing`, parts of
which use private names of Trio that another version of Trio might lack. Only the fixture does, when a test asks for it.
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
    """Make clusters: `cluster = metafora_cluster(handler, nodes=3)`.

    The arguments are those of `metafora_trio.testing.simulation.SimulatedCluster`. The broker is in memory unless you
    pass another one, such as `broker=ZooKeeperBroker`. The clusters are closed after the test, which cuts short
    whatever their nodes are doing. A test that depends on how things end must call `settle`.
    """
    from metafora_trio.testing.simulation import SimulatedCluster

    with ExitStack() as opened:

        def open_cluster(handler: Handler | None = None, **options: Any) -> SimulatedCluster:
            return opened.enter_context(SimulatedCluster(handler, **options))

        yield open_cluster
