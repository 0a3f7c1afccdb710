"""Creating a namespace and using an existing one, on a simulated ensemble."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from metafora_trio import (
    CoordinatorUnavailable,
    LayoutMismatch,
    NamespaceNotFound,
    NodesChanged,
    Task,
    TaskChanged,
    open_client,
)
from metafora_trio.testing.conformance import eventually
from metafora_trio.testing.conformance._subject import get_claim
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
    assert json.loads(lab.tree["/m"].data) == {"layout": 2, "buckets": 4, "generation": 5}
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


# ---- reading


async def test_reading_creates_nothing(lab: CoordinatorLab) -> None:
    """Every request but a submit raises the error and writes nothing. Once the namespace exists, the client works."""
    async with open_client(lab.coordinator) as client:
        requests: list[Callable[[], Awaitable[object]]] = [
            client.tasks,
            lambda: client.tasks(finished=True),
            lambda: client.get("t"),
            lambda: client.delete("t"),
            client.wait,
            lambda: client.wait(["t"]),
            client.nodes,
            lambda: client.freeze("a"),
            lambda: client.stop_task("t"),
            lambda: client.watch().__aenter__(),
            client.submit,
        ]
        for request in requests[:-1]:
            with pytest.raises(NamespaceNotFound, match="there is no namespace /m on ZooKeeper at simulated:2181"):
                await request()
        await client.submit()
        assert set(lab.tree) == {"/"}
        await lab.commit(Create("/m"))  # as an operator does, for its ACL
        for request in requests[:-1]:
            with pytest.raises(NamespaceNotFound):
                await request()
        assert set(lab.tree) == {"/", "/m"}
        await client.submit(Task("t"))
        assert [status.id for status in await client.tasks()] == ["t"]
        assert json.loads(lab.tree["/m"].data)["generation"] == 5


async def test_a_client_follows_a_namespace_that_is_made_later(lab: CoordinatorLab) -> None:
    async with open_client(lab.coordinator) as client:
        with pytest.raises(NamespaceNotFound):
            await client.nodes()
        async with lab.session("a"):
            assert [status.node.name for status in await client.nodes()] == ["a"]


async def test_a_mismatch_is_found_when_the_namespace_is_made_later(lab: CoordinatorLab) -> None:
    other = ZooKeeperCoordinator("simulated:2181", namespace="/m", buckets=8, connect=lab.connect)
    async with open_client(other) as client:
        async with lab.session():
            pass
        for request in (client.tasks, lambda: client.get("t"), lambda: client.submit(Task("t"))):
            with pytest.raises(LayoutMismatch, match="buckets=4, not with buckets=8"):
                await request()


async def test_a_watch_is_told_when_the_namespace_is_removed(lab: CoordinatorLab) -> None:
    """Even where there is no task whose end could wake it."""
    async with open_client(lab.coordinator) as client:
        for tasks in ([], ["t"]):
            async with lab.session():
                pass
            await client.submit(Task(id) for id in tasks)
            async with client.watch() as changes:
                seen = [type(await anext(changes)) for _ in range(1 + len(tasks))]
                assert seen == [NodesChanged, TaskChanged][: len(seen)]
                await lab.coordinator.remove()
                with pytest.raises(NamespaceNotFound):
                    await anext(changes)
            assert set(lab.tree) == {"/"}


async def test_a_submit_makes_a_removed_namespace_again(lab: CoordinatorLab) -> None:
    async with open_client(lab.coordinator) as client:
        for again in (False, True):
            await client.submit(Task("t"), again=again)
            assert [status.id for status in await client.tasks()] == ["t"]
            await lab.coordinator.remove()
        await client.submit(Task("t"))


# ---- generations


async def _token(lab: CoordinatorLab) -> int:
    """Submit a task, claim it, and return its token."""
    await lab.submit("t")
    async with lab.session() as (session, _):
        await eventually(session, lambda it: "t" in it.view.tasks)
        return (await get_claim(session, "t")).seq


async def test_tokens_grow_when_a_namespace_is_made_again(lab: CoordinatorLab) -> None:
    """ZooKeeper numbers the claims from 0 again."""
    first = await _token(lab)
    await lab.coordinator.remove()
    lab.generation = 6
    assert [first, await _token(lab)] == [5 << 32, 6 << 32]


async def test_a_namespace_of_an_older_version_has_generation_0(lab: CoordinatorLab) -> None:
    await lab.commit(Create("/m", b'{"layout": 2, "buckets": 4}'), *map(Create, lab.layout.directories()))
    assert await _token(lab) == 0


async def test_a_client_learns_the_generation_of_a_namespace_that_is_made_again(lab: CoordinatorLab) -> None:
    """With a view and without, on the connection that it had before."""
    async with open_client(lab.coordinator) as viewer, open_client(lab.coordinator) as reader:
        for generation in (5, 6):
            lab.generation = generation
            await lab.submit("t")
            async with lab.session() as (session, _):
                await eventually(session, lambda it: "t" in it.view.tasks)
                await get_claim(session, "t")
                await trio.sleep(1)
                (listed,) = await viewer.tasks()
                tokens = [listed.token, (await viewer.get("t")).token, (await reader.get("t")).token]
                assert tokens == [generation << 32] * 3
            await lab.coordinator.remove()
