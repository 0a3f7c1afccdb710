"""The pytest plugin: the fixture `metafora_cluster`, a whole cluster on virtual time.

Found by pytest through the entry point `metafora`; nothing is to be configured. It is loaded in every pytest run of
everybody who has this package installed. So it stands outside of `metafora_trio.testing`, parts of which use private
names of Trio: what another Trio might break is imported by the fixture, and only by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from metafora_trio import Handler
    from metafora_trio_zookeeper.testing.simulated import SimulatedCluster

__all__ = ["metafora_cluster"]


@pytest.fixture
def metafora_cluster() -> Iterator[Callable[..., SimulatedCluster]]:
    """Makes clusters: `cluster = metafora_cluster(handler, nodes=3)`.

    The arguments are those of `metafora_trio_zookeeper.testing.SimulatedCluster`. The clusters are closed after the
    test; what their nodes were doing is then cut short, so a test that cares how things end calls `settle`.
    """
    from metafora_trio_zookeeper.testing.simulated import SimulatedCluster

    with ExitStack() as opened:

        def open_cluster(handler: Handler | None = None, **options: Any) -> SimulatedCluster:
            return opened.enter_context(SimulatedCluster(handler, **options))

        yield open_cluster
