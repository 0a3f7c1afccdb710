"""The code of the how-to pages runs and behaves as the pages say."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import (
    Client,
    Consumer,
    MemoryCoordinator,
    RunningTask,
    StopReason,
    Task,
    TaskStatusName,
    open_client,
)
from tests.support.pages import run_blocks


@pytest.fixture(scope="module")
def stopping() -> dict[str, Any]:
    return run_blocks("docs/howto/stopping.md")


@pytest.fixture(scope="module")
def handlers() -> dict[str, Any]:
    return run_blocks("docs/howto/write-a-handler.md")


@asynccontextmanager
async def open_other(coordinator: MemoryCoordinator, handler: Any) -> AsyncGenerator[Client]:
    """Open a client with a task that runs on the node under test, and start another node beside it."""
    async with open_client(coordinator) as client, trio.open_nursery() as nursery:
        await client.submit(Task("task"))
        await until_owned(client)
        nursery.start_soon(Consumer(coordinator, handler, name="other").run)
        await trio.sleep(5)
        yield client
        nursery.cancel_scope.cancel()


async def until_owned(client: Client, by: str = "") -> None:
    with trio.fail_after(60):
        async with client.watch() as changes:
            async for _ in changes:
                owner = (await client.get("task")).owner
                if owner is not None and owner.startswith(by):
                    return


@pytest.mark.parametrize("way", ["leave", "drain", "signal", "two signals", "remote drain", "at once", "or die"])
async def test_every_way_to_stop(
    stopping: dict[str, Any], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Each way ends the node, and the task then runs on the other node. `stop_reason` tells a drain from a shutdown."""
    tasks: list[RunningTask] = []

    async def handler(task: RunningTask) -> None:
        tasks.append(task)
        await trio.sleep_forever()

    monkeypatch.setitem(stopping, "handler", handler)
    coordinator = MemoryCoordinator()
    enough, ended = trio.Event(), trio.Event()
    ways: dict[str, tuple[Callable[[], Awaitable[None]], Callable[[str], Awaitable[None]]]] = {
        "leave": (lambda: stopping["work_for"](coordinator, 20), by_itself),
        "drain": (lambda: stopping["work_until"](coordinator, enough), lambda name: set_event(enough)),
        "signal": (lambda: stopping["work_until_signalled"](coordinator), lambda name: send_signals(signal.SIGTERM)),
        "two signals": (
            lambda: stopping["work_until_signalled"](coordinator),
            lambda name: send_signals(signal.SIGTERM, signal.SIGINT),
        ),
        "remote drain": (
            lambda: stopping["work_until_drained"](coordinator),
            lambda name: stopping["send_home"](coordinator, name),
        ),
        "at once": (lambda: stopping["work_at_most"](coordinator, 20), by_itself),
        "or die": (
            lambda: stopping["work_or_die"](coordinator),
            lambda name: stopping["send_home"](coordinator, name),
        ),
    }
    node, stop = ways[way]

    async def run() -> None:
        await node()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with open_other(coordinator, stopping["handler"]) as client:
            owner = (await client.get("task")).owner
            assert owner is not None
            name = owner.rpartition(".")[0]
            assert name != "other"
            await stop(name)
            with trio.fail_after(60):
                await ended.wait()
            await until_owned(client, "other")
    at_once = way in ("two signals", "at once")
    assert tasks[0].stop_reason is (StopReason.SHUTDOWN if at_once else StopReason.DRAINED)


async def by_itself(name: str) -> None:
    await trio.lowlevel.checkpoint()


async def set_event(event: trio.Event) -> None:
    event.set()


async def send_signals(*numbers: signal.Signals) -> None:
    with trio.open_signal_receiver(*numbers):  # otherwise an unhandled signal would end the test run
        for number in numbers:
            signal.raise_signal(number)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_node(handler: Any, *tasks: Task, grace: float = 0) -> AsyncGenerator[tuple[Consumer, Client]]:
    coordinator = MemoryCoordinator()
    consumer = Consumer(coordinator, handler, grace=grace, settle=0)
    async with trio.open_nursery() as nursery, open_client(coordinator) as client:
        await client.submit(*tasks)
        nursery.start_soon(consumer.run)
        yield consumer, client
        nursery.cancel_scope.cancel()


async def test_ends(handlers: dict[str, Any], autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Returning None completes a task; returning RELEASE lets it run again."""
    again = Task("again", {"to": 2, "give_back_at": 0})
    async with open_node(handlers["count"], Task("plain", {"to": 3}), again) as (_, client):
        assert (await client.wait(["plain"]))["plain"].state == TaskStatusName.COMPLETED
        await trio.sleep(10)
    lines = [re.sub(r" on .*:", "", line) for line in capsys.readouterr().out.splitlines()]
    assert ["plain 0", "plain 1", "plain 2"] == [line for line in lines if line.startswith("plain")]
    assert lines.count("again 0") > 1
    assert "again 1" not in lines


async def test_finishes_a_piece_in_its_grace(handlers: dict[str, Any], autojump_clock: MockClock) -> None:
    """It gives the task back between two items, well before the grace has passed."""
    task = Task("task", {"items": list(range(1000))})
    async with open_node(handlers["work_through"], task, grace=10) as (consumer, client):
        await trio.sleep(3.5)
        before = trio.current_time()
        await consumer.drain()
        assert 0 < trio.current_time() - before <= 1
        assert (await client.get("task")).state == "unclaimed"


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def test_cleanup_can_await(handlers: dict[str, Any], peer: socket.socket) -> None:
    """Data sent in `cleanup` arrives although the task is cancelled. Fetching from the same peer works too."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(peer.dup()))
    host, port = peer.getsockname()
    with trio.fail_after(10):
        async with open_node(handlers["hold_connection"], Task("task", {"host": host, "port": port})) as (_, client):
            stream = await listener.accept()
            await client.delete("task")
            assert b"".join([part async for part in stream]) == b"QUIT\n"
        await stream.aclose()
        await listener.aclose()


async def test_thread_obeys_the_cancellation(handlers: dict[str, Any]) -> None:
    """A thread with minutes of work left ends when its task is deleted."""
    with trio.fail_after(10):
        async with open_node(handlers["crunch"], Task("task", {"blocks": 10_000})) as (consumer, client):
            while not consumer.tasks:
                await trio.testing.wait_all_tasks_blocked()
            await client.delete("task")
            assert (await client.wait(["task"]))["task"].state == "deleted"


async def test_fencing(handlers: dict[str, Any], autojump_clock: MockClock) -> None:
    """The next owner continues where the last one stopped; from its first write on, the last one cannot write."""
    database = sqlite3.connect(":memory:")
    copier = handlers["Copier"](database)
    old = handlers["Progress"](database, "task", -1)
    old.save(3)
    async with open_node(copier, Task("task", {"length": 10})) as (_, client):
        await trio.sleep(0.5)
        before = trio.current_time()
        with pytest.raises(handlers["Fenced"]):
            old.save(4)
        with pytest.raises(handlers["Fenced"]):
            handlers["Progress"](database, "task", -1)
        assert (await client.wait(["task"]))["task"].state == TaskStatusName.COMPLETED
        assert 6 < trio.current_time() - before < 8  # ten pieces less three
    assert database.execute("SELECT position FROM progress").fetchall() == [(10,)]
    database.close()
