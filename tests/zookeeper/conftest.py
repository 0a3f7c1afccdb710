"""Real ZooKeeper servers for the tests of this folder. Without ZooKeeper they fail and say what to install."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from metafora_trio_zookeeper.testing.real import Ensemble, ProxyLoop, ZooKeeperNotInstalled

_ENSEMBLES = ("ensemble", "linked_ensemble", "standalone")


def _run(ensemble: Ensemble) -> Iterator[Ensemble]:
    try:
        ensemble.start()
    except ZooKeeperNotInstalled as error:
        pytest.fail(str(error), pytrace=False)
    yield ensemble
    ensemble.stop()


@pytest.fixture(scope="session")
def ensemble() -> Iterator[Ensemble]:
    """Three servers, started once; what a test breaks is repaired after it."""
    yield from _run(Ensemble(3))


@pytest.fixture(scope="session")
def linked_ensemble() -> Iterator[Ensemble]:
    """Three servers whose connections with each other can be cut by `isolate`."""
    yield from _run(Ensemble(3, linked=True))


@pytest.fixture(scope="session")
def standalone() -> Iterator[Ensemble]:
    """One server: quicker, for what needs no quorum."""
    yield from _run(Ensemble(1))


@pytest.fixture(autouse=True)
def _repaired(request: pytest.FixtureRequest) -> Iterator[None]:
    """Repair the ensembles after each test that had one."""
    yield
    for name in _ENSEMBLES:
        if name in request.fixturenames:
            request.getfixturevalue(name).restore()


@pytest.fixture(scope="session")
def proxies() -> Iterator[ProxyLoop]:
    """Where to open proxies to servers."""
    with ProxyLoop() as loop:
        yield loop


@pytest.fixture
def namespace() -> str:
    """A name that no other test uses, without a slash."""
    return f"test-{uuid.uuid4().hex[:12]}"
