"""A cluster of consumers in one Trio run, on virtual time, for the tests of the consumer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import trio

from metafora_trio import Client, Consumer, Handler, MemoryCoordinator, RunningTask, Task, open_client
from metafora_trio._model.node_info import node_name
from metafora_trio.events import Event


def brief(event: Event) -> str:
    """Describe an event in a few words: its type and its subject."""
    fields = ("task", "command", "method", "state", "why", "reason", "heir")
    about = {field: value for field in fields if (value := getattr(event, field, None))}
    if "heir" in about:
        about["heir"] = node_name(about["heir"])
    return " ".join([type(event).__name__, *map(str, about.values())])


class Node:
    """A running consumer, its events, and the scope that simulates its process."""

    def __init__(self, consumer: Consumer, events: trio.MemoryReceiveChannel[Event]) -> None:
        self.consumer = consumer
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self._events = events

    @property
    def identity(self) -> str:
        identity = self.consumer.statistics().node
        assert identity is not None
        return identity

    @property
    def tasks(self) -> set[str]:
        return set(self.consumer.tasks)

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        events: list[Event] = []
        while True:
            try:
                events.append(self._events.receive_nowait())
            except trio.WouldBlock:
                return events

    def told(self) -> list[str]:
        """Return the events since the last call, in brief."""
        return [brief(event) for event in self.take_events()]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self.scope:
                await self.consumer.run(task_status=task_status)
        finally:
            self.ended.set()


class Cluster:
    """Some nodes and a client on one `MemoryCoordinator`. Asserts that every run is the only one of its task.

    Attributes:
        log: "a starts t" and "a stops t" for each run, and the entries that handlers add.
    """

    def __init__(self, coordinator: MemoryCoordinator, client: Client, nursery: trio.Nursery) -> None:
        self.coordinator = coordinator
        self.client = client
        self.log: list[str] = []
        self.running: dict[str, str] = {}
        self.starts: Counter[str] = Counter()
        self._nursery = nursery
        self._subscriptions: list[AbstractContextManager[trio.MemoryReceiveChannel[Event]]] = []

    async def start(self, name: str, handler: Handler | None = None, **options: Any) -> Node:
        """Start a node and wait until it has joined. By default its handler runs forever."""
        watched = self.watched(handler if handler is not None else run_for_ever)
        options = {"rng": random.Random(name), **options}
        return await self.start_consumer(Consumer(self.coordinator, watched, name=name, **options))

    async def start_consumer(self, consumer: Consumer) -> Node:
        node = self._node(consumer)
        await self._nursery.start(node.run)
        return node

    def begin(self, consumer: Consumer) -> Node:
        """Start a node without waiting until it has joined."""
        node = self._node(consumer)
        self._nursery.start_soon(node.run)
        return node

    def _node(self, consumer: Consumer) -> Node:
        subscription = consumer.subscribe()
        self._subscriptions.append(subscription)
        return Node(consumer, subscription.__enter__())

    def watched(self, handler: Handler) -> Handler:
        """Wrap a handler to log and check each of its runs."""

        async def run(task: RunningTask) -> Any:
            node = node_name(task.node)
            assert task.id not in self.running, f"{task.id} starts on {node}, but runs on {self.running[task.id]}"
            self.running[task.id] = node
            self.starts[task.id] += 1
            self.log.append(f"{node} starts {task.id}")
            try:
                return await handler(task)
            finally:
                del self.running[task.id]
                self.log.append(f"{node} stops {task.id}")

        return run

    def crash(self, node: Node) -> None:
        """Crash a node's process."""
        self.coordinator.crash(node.identity)
        node.scope.cancel()

    def remove_claim(self, task: str) -> None:
        """Remove the claim of a task's owner, as an operator might by hand."""
        claim = self.coordinator._store.view.head(task)
        assert claim is not None
        self.coordinator._store.remove_claim(claim)

    async def submit(self, *ids: str, **props: Any) -> None:
        await self.client.submit(Task(id, props) for id in ids)

    async def submit_until_running(self, *ids: str, **props: Any) -> None:
        """Submit tasks, and wait until all of them run."""
        await self.submit(*ids, **props)
        await self.wait_running(*ids)

    def owners(self) -> dict[str, list[str]]:
        """Return the names of the nodes in each task's queue of claims, the owner first, from the broker's state."""
        view = self.coordinator._store.view
        return {task: [node_name(claim.node) for claim in view.queue(task)] for task in view.claimed_tasks()}

    async def wait_until(self, condition: Callable[[], object], *, within: float = 60.0, every: float = 0.01) -> None:
        """Wait, in virtual time, until a condition holds."""
        with trio.fail_after(within):
            while not condition():  # noqa: ASYNC110 - any condition, and time is virtual
                await trio.sleep(every)

    async def wait_running(self, *ids: str) -> None:
        await self.wait_until(lambda: set(ids) <= set(self.running))

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.__exit__(None, None, None)


async def run_for_ever(task: RunningTask) -> None:
    """Run until cancelled: the default handler."""
    await trio.sleep_forever()


def spread(nodes: Iterable[Node]) -> int:
    """Return the largest minus the smallest number of running tasks of some nodes."""
    loads = [len(node.tasks) for node in nodes]
    return max(loads) - min(loads)


@asynccontextmanager
async def open_cluster(coordinator: MemoryCoordinator | None = None, **options: Any) -> AsyncGenerator[Cluster]:
    """Open a cluster without nodes. At the end, cancel all nodes, and assert that no claim and no run is left."""
    coordinator = coordinator if coordinator is not None else MemoryCoordinator(**options)
    async with open_client(coordinator) as client:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(coordinator, client, nursery)
            yield cluster
            nursery.cancel_scope.cancel()
        cluster.close()
        assert cluster.owners() == {}
        assert cluster.running == {}
