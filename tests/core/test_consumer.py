"""Consumer: joins, takes its share of the tasks, and survives crashes, outages and lost sessions."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import (
    Command,
    CommandName,
    Consumer,
    CoordinatorUnavailable,
    InvalidName,
    MemoryCoordinator,
    RunningTask,
)
from tests.support.nodes import Node, open_cluster, run_for_ever, spread

LATENCIES = pytest.mark.parametrize("latency", [0.0, 0.05])


@LATENCIES
async def test_tasks_are_spread_evenly(latency: float, autojump_clock: MockClock) -> None:
    """Three nodes share ten tasks. Their loads differ by at most one, and each task starts once."""
    async with open_cluster(latency=latency) as cluster:
        nodes = [await cluster.start(name) for name in "abc"]
        await cluster.submit_until_running(*(f"t{i}" for i in range(10)))
        await trio.sleep(20)
        assert sorted(len(node.tasks) for node in nodes) == [3, 3, 4]
        assert set(cluster.starts.values()) == {1}


@LATENCIES
async def test_new_node_gets_its_share_by_the_fewest_moves(latency: float, autojump_clock: MockClock) -> None:
    """A node that joins three nodes with 12 tasks gets three of them, and no other task moves."""
    async with open_cluster(latency=latency) as cluster:
        nodes = [await cluster.start(name) for name in "abc"]
        await cluster.submit_until_running(*(f"t{i}" for i in range(12)))
        nodes.append(await cluster.start("d"))
        await cluster.wait_until(lambda: len(nodes[3].tasks) == 3 and len(cluster.running) == 12)
        await trio.sleep(20)
        assert spread(nodes) == 0
        assert sum(cluster.starts.values()) == 12 + 3
        assert all(len(queue) == 1 for queue in cluster.owners().values())


@LATENCIES
async def test_more_bids_than_handovers_at_once(latency: float, autojump_clock: MockClock) -> None:
    """Bids that must wait because `max_handovers` tasks are being handed over are answered later."""
    async with open_cluster(latency=latency) as cluster:

        async def slow_to_stop(task: RunningTask) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with task.cleanup():
                    await trio.sleep(0.5)

        old = await cluster.start("old", slow_to_stop, max_handovers=2)
        await cluster.submit_until_running(*(f"t{i:02}" for i in range(30)))
        new = [await cluster.start(name) for name in ("new1", "new2")]
        await cluster.wait_until(lambda: {len(node.tasks) for node in (old, *new)} == {10}, within=20)
        assert sum(cluster.starts.values()) == 30 + 20


async def test_handovers_one_after_another(autojump_clock: MockClock) -> None:
    """If only one task may be handed over at a time, the next handover begins as soon as one has ended."""
    async with open_cluster(latency=0.01) as cluster:
        await cluster.start("a", max_handovers=1)
        await cluster.submit_until_running(*(f"t{i:02}" for i in range(30)))
        b = await cluster.start("b")
        await cluster.wait_until(lambda: b.tasks)
        began = trio.current_time()
        await cluster.wait_until(lambda: len(b.tasks) == 15)
        assert trio.current_time() - began < 14 * 0.05


@LATENCIES
async def test_crash(latency: float, autojump_clock: MockClock) -> None:
    """The tasks of a node that crashes soon run again, spread evenly over the others, whose own tasks keep running."""
    async with open_cluster(latency=latency) as cluster:
        nodes = [await cluster.start(name) for name in "abc"]
        await cluster.submit_until_running(*(f"t{i}" for i in range(9)))
        died, *others = nodes
        lost = died.tasks
        cluster.crash(died)
        await died.ended.wait()
        await cluster.wait_until(lambda: len(cluster.running) == 9, within=1.0)
        assert spread(others) <= 1
        assert {task for task, starts in cluster.starts.items() if starts == 2} == lost
        assert sum(cluster.starts.values()) == 12


async def test_lost_session(autojump_clock: MockClock) -> None:
    """A node that loses its session stops its tasks, and then joins again without any claim."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        first = node.identity
        cluster.coordinator.expire(first)
        await cluster.wait_until(lambda: not cluster.running)
        await cluster.wait_running("t")
        assert node.identity != first
        assert node.consumer.statistics().sessions == 2
        assert node.told() == [
            "SessionOpened",
            "TaskClaimed t",
            "TaskStarted t",
            "TaskStopped t session_lost",
            f"SessionEnded the session of node {first} has ended",
            "SessionOpened",
            "TaskClaimed t",
            "TaskStarted t",
        ]


def has_joined_again(node: Node, sessions: int) -> bool:
    return node.consumer.statistics().sessions > sessions


async def test_delays_grow_while_sessions_do_not_last(autojump_clock: MockClock) -> None:
    """While every session ends at once, the delay before each join grows. A session that lasts resets it."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        delays = []
        for lasts in [*[0.0] * 6, 60.0]:
            await trio.sleep(lasts)
            cluster.coordinator.expire(node.identity)
            lost = trio.current_time()
            sessions = node.consumer.statistics().sessions
            await cluster.wait_until(partial(has_joined_again, node, sessions))
            delays.append(trio.current_time() - lost)
        assert all(1.5 <= delay <= 3.1 for delay in delays[4:6])
        assert delays[0] < 0.3
        assert delays[6] < 0.3


async def test_joining_again_is_retried_forever(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """During an outage, a node that has lost its session keeps trying to join, after delays of up to a few seconds."""
    async with open_cluster(connect_timeout=1.0) as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        cluster.coordinator.outage = True
        cluster.coordinator.expire(node.identity)
        await trio.sleep(5000)  # so many attempts that a delay doubled each time would overflow
        assert 5000 / 4.1 < caplog.text.count("JoinFailed") < 5000 / 2.4
        assert node.consumer.statistics().node is None
        cluster.coordinator.outage = False
        await cluster.wait_running("t")


async def test_first_join_fails(autojump_clock: MockClock) -> None:
    """If the first join fails, `run` raises. A later `run` may succeed."""
    coordinator = MemoryCoordinator(connect_timeout=3.0)
    coordinator.outage = True
    consumer = Consumer(coordinator, run_for_ever, name="a")
    started = trio.current_time()
    with pytest.raises(CoordinatorUnavailable):
        await consumer.run()
    assert trio.current_time() == started + 3.0
    assert repr(consumer) == "<Consumer 'a' idle, 0 tasks>"
    coordinator.outage = False
    async with open_cluster(coordinator) as cluster:
        await cluster.start_consumer(consumer)


async def test_runs_once_at_a_time(autojump_clock: MockClock) -> None:
    """A second `run` is refused while the first is running. After that, the consumer may run again."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        with pytest.raises(trio.BusyResourceError, match="is already running"):
            await node.consumer.run()
        await node.consumer.drain()
        assert node.ended.is_set()
        again = await cluster.start_consumer(node.consumer)
        await cluster.submit_until_running("t")
        assert again.consumer.statistics().sessions == 1


# ---- attributes and arguments


async def test_statistics_and_repr(autojump_clock: MockClock) -> None:
    """`statistics()` and `repr` show the state of a consumer: idle, running and frozen."""
    async with open_cluster() as cluster:
        consumer = Consumer(cluster.coordinator, run_for_ever, name="a", rng=random.Random(0))
        assert repr(consumer) == "<Consumer 'a' idle, 0 tasks>"
        idle = consumer.statistics()
        assert (idle.node, idle.tasks_running, idle.tasks_open, idle.sessions) == (None, 0, 0, 0)
        node = await cluster.start_consumer(consumer)
        await cluster.submit("t", "u")
        await cluster.wait_until(lambda: len(consumer.tasks) == 2)
        assert repr(consumer) == "<Consumer 'a' running, 2 tasks>"
        statistics = consumer.statistics()
        assert statistics.node == node.identity
        assert (statistics.tasks_running, statistics.tasks_open, statistics.sessions) == (2, 2, 1)
        assert (statistics.requests_outstanding, statistics.events_dropped) == (0, 0)
        assert (statistics.draining, statistics.frozen) == (False, False)
        await cluster.client.send("a", Command(CommandName.FREEZE))
        await cluster.wait_until(lambda: consumer.frozen)
        assert repr(consumer) == "<Consumer 'a' frozen, 2 tasks>"
        assert consumer.statistics().frozen


async def test_tasks_is_a_copy(autojump_clock: MockClock) -> None:
    """A caller may keep and change the mapping that `tasks` returns."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        await cluster.submit_until_running("t")
        tasks = dict(node.consumer.tasks)
        assert tasks["t"].node == node.identity
        assert node.consumer.tasks is not node.consumer.tasks


def test_default_name() -> None:
    """A node's default name ends with the process id, and is a valid name whatever the host is called."""
    name = Consumer(MemoryCoordinator(), run_for_ever).name
    assert name.rpartition("-")[2].isdigit()


@pytest.mark.parametrize(
    "options",
    [
        {"grace": -1},
        {"grace": float("nan")},
        {"cleanup_timeout": -1},
        {"blocked_timeout": 0},
        {"drain_timeout": -1},
        {"settle": -1},
        {"backup_delay": 0},
        {"max_handovers": -1},
        {"suspend_after_failures": 0},
        {"on_overrun": "ignore"},
        {"capacity": -1},
        {"capacity": 2.5},
        {"capacity": True},
        {"capacity": 2**63},
        {"tags": ["x"] * 3 + [str(n) for n in range(64)]},
    ],
)
def test_arguments_out_of_range(options: dict[str, object]) -> None:
    """An argument out of range is refused before anything runs. The message names it."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Consumer(MemoryCoordinator(), run_for_ever, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("tag", ["", "x" * 65, "\ud800", 7])
def test_a_tag_that_other_nodes_could_not_read(tag: object) -> None:
    """Other nodes read the tags, so they are checked before the node announces them."""
    with pytest.raises(ValueError, match="a tag must be a string of 1 to 64 characters"):
        Consumer(MemoryCoordinator(), run_for_ever, tags=[tag])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "options, message",
    [({"handler": None}, "an async function, not None"), ({"tags": "abc"}, "several strings, not the one 'abc'")],
)
def test_arguments_of_a_wrong_type(options: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Consumer(MemoryCoordinator(), **{"handler": run_for_ever, **options})  # type: ignore[arg-type]


def test_bad_name() -> None:
    """A node's name follows the same rule as a task id."""
    with pytest.raises(InvalidName, match="'~'"):
        Consumer(MemoryCoordinator(), run_for_ever, name="a~b")


async def test_capacity(autojump_clock: MockClock) -> None:
    """No node claims more tasks than its capacity. The rest wait until another node joins."""
    async with open_cluster() as cluster:
        a: Node = await cluster.start("a", capacity=2)
        b: Node = await cluster.start("b", capacity=3)
        await cluster.submit(*(f"t{i}" for i in range(8)))
        await trio.sleep(30)
        assert (len(a.tasks), len(b.tasks)) == (2, 3)
        c = await cluster.start("c")
        await cluster.wait_until(lambda: len(cluster.running) == 8)
        assert (len(a.tasks), len(b.tasks), len(c.tasks)) == (2, 3, 3)
