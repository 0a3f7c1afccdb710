"""Creating a namespace and using an existing one, on a simulated ensemble."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import trio

from metafora_trio import CoordinatorUnavailable, LayoutMismatch
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


async def test_the_namespace_is_made_once(lab: CoordinatorLab) -> None:
    async with trio.open_nursery() as nursery:
        for name in "abc":

            async def join(name: str = name) -> None:
                async with lab.session(name):
                    await trio.sleep(1)

            nursery.start_soon(join)
    assert json.loads(lab.tree["/m"].data) == {"layout": 2, "buckets": 4}
    assert {"/m/tasks/00", "/m/tasks/01", "/m/commands/03", "/m/node_commands"} <= lab.tree.keys()


async def test_another_number_of_buckets_is_refused(lab: CoordinatorLab) -> None:
    async with lab.session():
        pass
    other = ZooKeeperCoordinator("simulated:2181", namespace="/m", buckets=8, connect=lab.connect)
    with pytest.raises(LayoutMismatch, match="buckets=4, not with buckets=8"):
        async with other.open_client():
            pass


async def test_a_newer_layout_is_refused(lab: CoordinatorLab) -> None:
    await lab.commit(Create("/m", b'{"layout":3,"buckets":4}'))
    with pytest.raises(LayoutMismatch, match=r"layout 3, made by a newer version"):
        async with lab.coordinator.open_client():
            pass


async def test_a_root_made_by_an_operator_is_used(lab: CoordinatorLab) -> None:
    await lab.commit(Create("/m"))
    async with lab.session() as (session, _):
        assert session.current


async def test_something_else_below_the_root_is_not_touched(lab: CoordinatorLab) -> None:
    await lab.commit(Create("/m"), Create("/m/states"))
    with pytest.raises(CoordinatorUnavailable, match="has children but no layout record"):
        async with lab.session():
            pass
    assert set(lab.tree) == {"/", "/m", "/m/states"}
