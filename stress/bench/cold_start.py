"""Benchmarks of nodes that start with unclaimed tasks: `claims` and `cluster`."""

from __future__ import annotations

import time

import trio

from .cluster import Cluster
from .result import Result
from .stock import creates_per_second

__all__ = ["claims", "start_together"]

STAGGER = 0.2
"""Seconds between the starts of two nodes, so that five nodes start within one second."""
QUIET = 5.0
"""Seconds without a move after which no more moves are expected: longer than every delay and tick of a node."""


async def claims(cluster: Cluster, tasks: int) -> Result:
    """Time how long one node takes to claim all tasks: from its first claim write until every handler runs."""
    observer = cluster.observer
    await cluster.submit(tasks)
    node = await cluster.load_node()
    cluster.say(f"{tasks} tasks submitted; one node joins")
    await node.join()
    await observer.wait(lambda: observer.total == tasks, timeout=120, what="all tasks run")
    seconds = (observer.last - (sent := await node.ask("report"))["first_claim"]) / 1e9
    duplicates = observer.verdict().duplicate_runs
    await node.kill()
    cluster.say(f"all tasks run after {seconds:.2f} s; now stock kazoo creates as many znodes")
    raw = await trio.to_thread.run_sync(creates_per_second, cluster.hosts, tasks)
    return Result(
        {
            "tasks": tasks,
            "seconds": round(seconds, 3),
            "per_s": round(tasks / seconds, 1),
            "raw_per_s": round(raw, 1),
            "ratio": round(tasks / seconds / raw, 2),
            "attempts_per_task": round(sent["claims"] / tasks, 4),
            "duplicates": duplicates,
        },
        {"per_s": f"{raw:,.0f} single creates a second by stock kazoo, pipelined"},
    )


async def start_together(cluster: Cluster, tasks: int) -> Result:
    """Time how long five nodes take to share all tasks: from the first node's start until the last move.

    The nodes start within one second.
    """
    observer = cluster.observer
    await cluster.submit(tasks)
    nodes = await cluster.load_nodes(5)
    cluster.say(f"{tasks} tasks submitted; five nodes join")
    started = time.monotonic_ns()
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.join)
            await trio.sleep(STAGGER)
    await observer.wait(lambda: observer.total == tasks, timeout=120, what="all tasks run")
    cluster.say("all tasks run; waiting until no task moves any more")
    await observer.wait_quiet(QUIET, timeout=60)
    sent = [await node.ask("report") for node in nodes]
    spread = observer.spread(node.name for node in nodes)
    return Result(
        {
            "seconds": round((observer.last - started) / 1e9, 3),
            "spread": spread,
            "attempts_per_task": round(sum(counts["claims"] for counts in sent) / tasks, 4),
            "duplicates": observer.verdict().duplicate_runs,
        },
        {"attempts_per_task": "5 if each node tried each task"},
    )
