"""A client's handling of records that are left behind, unreadable or misnamed, on a simulated ensemble."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio import InvalidTask, Task, TaskState
from metafora_trio.contract import StoredTask, TaskSnapshot
from metafora_trio.testing.conformance._subject import look_up
from metafora_trio_zookeeper._connection import Create, Delete, SetData
from metafora_trio_zookeeper._layout import TOMBSTONE
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
        assert (await look_up(client, "t")).task is not None


async def test_a_state_left_behind_by_hand_can_be_deleted(lab: CoordinatorLab) -> None:
    async with lab.coordinator.open_client() as client:
        await client.submit([Task("other")], again=False)
        for data in (TaskState().encode(), b"not a record"):
            await lab.commit(Create(lab.layout.state_path("t"), data))
            await client.delete(["t"])
            assert lab.layout.state_path("t") not in lab.tree
            assert lab.layout.task_path("t") not in lab.tree


async def test_ids_are_checked_before_they_become_paths(lab: CoordinatorLab) -> None:
    async with lab.coordinator.open_client() as client:
        for call in (look_up(client, "a/b"), client.delete(["../x"])):
            with pytest.raises(InvalidTask):
                await call


async def test_a_record_that_cannot_be_read_is_a_problem_of_its_task_alone(lab: CoordinatorLab) -> None:
    async with lab.coordinator.open_client() as client:
        await client.submit([Task("t", {"a": 1}), Task("u")], again=False)
        good = TaskSnapshot(StoredTask({}), TaskState())
        for data in (b"?", b"[]", b'{"state":"unheard"}', b'{"errors":[{}]}', b'{"errors":[1]}'):
            await lab.commit(SetData(lab.layout.state_path("t"), data))
            t, u = await client.look_up(["t", "u"])
            assert (t.task, t.state, t.task_problem, u) == (StoredTask({"a": 1}), None, "", good)
            assert t.state_problem.startswith("the stored state of task 't' cannot be read")
        await lab.commit(Delete(lab.layout.task_path("t")), Create(lab.layout.task_path("t"), b"[1]"))
        t, u = await client.look_up(["t", "u"])
        assert (t.task, u) == (StoredTask({}), good)
        assert "'t'" in t.task_problem
        assert await client.delete(["t", "u"]) == []
        assert [snapshot.task for snapshot in await client.look_up(["t", "u"])] == [StoredTask({}, 1)] * 2


async def test_a_delete_of_a_task_that_was_changed_by_hand(lab: CoordinatorLab) -> None:
    """Whatever an operator has set, the tombstone replaces it."""
    async with lab.coordinator.open_client() as client:
        await client.submit([Task("t"), Task("u")], again=False)
        await lab.commit(SetData(lab.layout.task_path("t"), b'{"b":2}'))
        assert await client.delete(["t", "u"]) == []
        assert {lab.tree[lab.layout.task_path(task)].data for task in "tu"} == {TOMBSTONE}
