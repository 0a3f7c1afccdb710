"""A client, and one node whose session the test drives by hand, for the tests of the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import metafora_trio as mt
from metafora_trio import contract
from metafora_trio.testing.conformance import eventually
from metafora_trio.testing.conformance._subject import get_claim

__all__ = ["COMPLETED", "cluster", "finish"]

COMPLETED = mt.TaskState(mt.StateName.COMPLETED)


@asynccontextmanager
async def cluster(*names: str, latency: float = 0.0) -> AsyncGenerator[tuple[mt.Client, contract.Session]]:
    """Open a client and the session of one node on a new cluster, in which tasks with these ids were submitted."""
    coordinator = mt.MemoryCoordinator(latency=latency)
    async with mt.open_client(coordinator) as client, coordinator.open_session(mt.NodeInfo("a")) as a:
        await client.submit(mt.Task(name) for name in names)
        await eventually(a, lambda it: len(it.view.tasks) == len(names))
        yield client, a


async def finish(session: contract.Session, task: str, state: mt.TaskState | None = COMPLETED) -> None:
    """Claim a task, and finish it in this state."""
    session.finish(await get_claim(session, task), state)
    await eventually(session, lambda it: task not in it.view.tasks)
