"""Real ZooKeeper servers for the tests in this folder. Without ZooKeeper the tests fail and say what to install."""

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
    """Three servers, started once; `_repaired` restores them after each test."""
    yield from _run(Ensemble(3))


@pytest.fixture(scope="session")
def linked_ensemble() -> Iterator[Ensemble]:
    """Three servers whose connections to each other `isolate` can cut."""
    yield from _run(Ensemble(3, linked=True))


@pytest.fixture(scope="session")
def standalone() -> Iterator[Ensemble]:
    """One server: quicker, for tests that need no quorum."""
    yield from _run(Ensemble(1))


@pytest.fixture(autouse=True)
def _repaired(request: pytest.FixtureRequest) -> Iterator[None]:
    """Restore the ensembles after each test that used one."""
    yield
    for name in _ENSEMBLES:
        if name in request.fixturenames:
            request.getfixturevalue(name).restore()


@pytest.fixture(scope="session")
def proxies() -> Iterator[ProxyLoop]:
    """A loop in which to open proxies to servers."""
    with ProxyLoop() as loop:
        yield loop


@pytest.fixture
def namespace() -> str:
    """A name that no other test uses, without a slash."""
    return f"test-{uuid.uuid4().hex[:12]}"
