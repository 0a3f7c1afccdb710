"""The benchmark `client`: what one client can do in a cluster in which every task is claimed.

No node runs. Raw sessions hold the claims, and end the tasks, as nodes would. So only the client is measured.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from metafora_trio import Client, StateName, Task, TaskState, open_client
from metafora_trio.contract import ClaimKind, NodeInfo
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Connection, Create, Delete, SetData, WriteOp
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from metafora_trio_zookeeper._layout import MAX_OPS, Layout
from metafora_trio_zookeeper._plain_connection import open_connection
from metafora_trio_zookeeper._replies import Burst

from .cluster import Cluster
from .result import Result

__all__ = ["client"]

_NAMESPACE = "/metafora"
_CLAIMS_PER_SESSION = 10_000
_IN_FLIGHT = 8
GETS = 300
"""The number of tasks to read, one at a time."""
_PATIENCE = 60.0


async def client(cluster: Cluster, tasks: int) -> Result:
    """Submit, read, wait for and delete all tasks through one client."""
    ids = [f"task-{n}" for n in range(1, tasks + 1)]
    coordinator = ZooKeeperCoordinator(cluster.hosts, connect_timeout=_PATIENCE)
    async with open_client(coordinator) as viewer, open_client(coordinator) as reader:
        began = time.monotonic()
        await viewer.submit(Task(id) for id in ids)
        submit = time.monotonic() - began
        cluster.say(f"{tasks} tasks submitted after {submit:.2f} s; claiming them")
        async with _claimed(cluster.hosts, ids) as end_all:
            await viewer.tasks()
            chosen = random.sample(ids, min(GETS, tasks))
            with_view = await _median_get(viewer, chosen)
            without_view = await _median_get(reader, chosen)
            cluster.say(f"a get takes {with_view:.2f} ms, or {without_view:.2f} ms without a view; ending all tasks")
            wait = await _wait_for_all(viewer, ids, end_all)
        cluster.say(f"all ends seen after {wait:.2f} s; listing them")
        began = time.monotonic()
        listed = await reader.tasks(finished=True)
        if len(listed) != tasks:
            raise RuntimeError(f"{len(listed)} of {tasks} ended tasks were listed")
        listing = time.monotonic() - began
        cluster.say(f"listed after {listing:.2f} s; deleting the records, and submitting again")
        delete_ended = await _delete(reader, ids)
        await reader.submit(Task(id) for id in ids)
        cluster.say("deleting the tasks")
        delete = await _delete(reader, ids)
    return Result(
        {
            "submit_per_s": round(tasks / submit, 1),
            "get_ms": round(with_view, 3),
            "get_without_view_ms": round(without_view, 3),
            "wait_seconds": round(wait, 3),
            "list_ended_seconds": round(listing, 3),
            "delete_per_s": round(tasks / delete, 1),
            "delete_ended_per_s": round(tasks / delete_ended, 1),
        }
    )


async def _median_get(client: Client, ids: Sequence[str]) -> float:
    """Read tasks one after another; return the median time in milliseconds."""
    times = []
    for id in ids:
        began = time.monotonic()
        status = await client.get(id)
        times.append(time.monotonic() - began)
        if status.owner is None:
            raise RuntimeError(f"the claim of {id} was not seen")
    return statistics.median(times) * 1e3


async def _wait_for_all(client: Client, ids: Sequence[str], end_all: Callable[[], object]) -> float:
    """Wait for all tasks while they end; return the seconds from the first end until the wait returns."""
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            ended = await client.wait(ids)
            if {status.state for status in ended.values()} != {"completed"}:
                raise RuntimeError("not every task has completed")

        nursery.start_soon(wait)
        await trio.sleep(0.5)
        began = time.monotonic()
        end_all()
    return time.monotonic() - began


async def _delete(client: Client, ids: Sequence[str]) -> float:
    """Delete tasks; return how many seconds it took."""
    began = time.monotonic()
    await client.delete(*ids)
    return time.monotonic() - began


@asynccontextmanager
async def _claimed(hosts: str, ids: Sequence[str]) -> AsyncGenerator[Callable[[], None]]:
    """Claim tasks for sessions without a node. Yield a function that starts to end them all."""
    layout = Layout(_NAMESPACE)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        held: list[tuple[Connection, list[tuple[str, str]]]] = []
        for first in range(0, len(ids), _CLAIMS_PER_SESSION):
            connection = await stack.enter_async_context(
                open_connection(lambda: KazooConnection(hosts, session_timeout=20.0), hosts=hosts, patience=_PATIENCE)
            )
            identity = f"n{first}.{'x' * 10}"
            await _transact(
                connection, [[Create(layout.node_path(identity), NodeInfo(identity).encode(), ephemeral=True)]]
            )
            own = ids[first : first + _CLAIMS_PER_SESSION]
            prefixes = [layout.claim_prefix(id, identity, ClaimKind.CLAIM) for id in own]
            creates = [Create(prefix, ephemeral=True, sequential=True) for prefix in prefixes]
            created = await _transact(
                connection, [creates[place : place + MAX_OPS] for place in range(0, len(creates), MAX_OPS)]
            )
            held.append((connection, list(zip(own, created, strict=True))))

        def end_all() -> None:
            for connection, claims in held:
                nursery.start_soon(_end, connection, layout, claims)

        yield end_all


async def _end(connection: Connection, layout: Layout, claims: Sequence[tuple[str, str]]) -> None:
    """End tasks as their owner does."""
    state = TaskState(StateName.COMPLETED).encode()
    chunks: list[list[WriteOp]] = []
    size = MAX_OPS // 3
    for first in range(0, len(claims), size):
        ops: list[WriteOp] = []
        for id, claim in claims[first : first + size]:
            ops += [SetData(layout.state_path(id), state), Delete(layout.task_path(id)), Delete(claim)]
        chunks.append(ops)
    await _transact(connection, chunks)


async def _transact(connection: Connection, chunks: Sequence[Sequence[WriteOp]]) -> list[str]:
    """Carry out transactions, some at a time. Return the paths that were created."""
    paths: list[str] = []
    for first in range(0, len(chunks), _IN_FLIGHT):
        burst = Burst()
        slots = [burst.slot() for _ in chunks[first : first + _IN_FLIGHT]]
        for ops, slot in zip(chunks[first:], slots, strict=False):
            connection.transact(ops, slot)
        await burst.wait()
        for slot in slots:
            assert isinstance(slot.value, tuple)
            paths += [path for path in slot.value if path is not None]
    return paths
