"""A client's handling of records that are left behind, unreadable or misnamed, on a simulated ensemble."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio import InvalidTask, Task, TaskState
from metafora_trio_zookeeper._connection import Create, Delete, SetData
from tests.support.zookeeper.coordinator_lab import CoordinatorLab, lab_of


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[CoordinatorLab]:
    with lab_of(request.node) as lab:
        yield lab


async def test_a_state_that_was_left_behind_is_no_end(lab: CoordinatorLab) -> None:
    """The task was removed by hand, so there is no end to report."""
    async with lab.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        await lab.commit(Delete(lab.layout.task_path("t")))
        await client.submit([Task("t")], again=False)
        assert (await client.look_up("t")).task is not None


async def test_a_state_left_behind_by_hand_can_be_deleted(lab: CoordinatorLab) -> None:
    async with lab.coordinator.open_client() as client:
        for data in (TaskState().encode(), b"not a record"):
            await lab.commit(Create(lab.layout.state_path("t"), data))
            await client.delete("t")
            assert lab.layout.state_path("t") not in lab.tree
            assert lab.layout.task_path("t") not in lab.tree


async def test_ids_are_checked_before_they_become_paths(lab: CoordinatorLab) -> None:
    async with lab.coordinator.open_client() as client:
        for call in (client.look_up("a/b"), client.delete("../x")):
            with pytest.raises(InvalidTask):
                await call


async def test_a_state_that_cannot_be_read_is_named(lab: CoordinatorLab) -> None:
    async with lab.coordinator.open_client() as client:
        await client.submit([Task("t")], again=False)
        for data in (b"?", b"[]", b'{"state":"unheard"}', b'{"errors":[{}]}', b'{"errors":[1]}'):
            await lab.commit(SetData(lab.layout.state_path("t"), data))
            with pytest.raises(InvalidTask, match="the stored state of task 't' cannot be read"):
                await client.look_up("t")
