"""The benchmark `idle`: the CPU time and memory of a node whose tasks do nothing."""

from __future__ import annotations

import sys

import trio

from .cluster import Cluster
from .proc import cpu_seconds, rss_kib
from .result import Result

__all__ = ["idle"]

SECONDS = 20.0
REST = 3.0
"""Seconds between the last start and the measurement, because work left over from a start is not idling."""


async def idle(cluster: Cluster, tasks: int) -> Result:
    """Measure one node that runs all tasks while they sleep.

    Memory is compared with the node's memory just after it joined an empty cluster, so its view of the tasks counts.
    """
    observer = cluster.observer
    node = await cluster.load_node()
    await node.join()
    empty = rss_kib(node.pid)
    await cluster.submit(tasks)
    await observer.wait(lambda: observer.total == tasks, timeout=120, what="all tasks run")
    await trio.sleep(REST)
    cluster.say(f"{tasks} tasks run; measuring for {SECONDS:g} s")
    cpu, began = cpu_seconds(node.pid), trio.current_time()
    await trio.sleep(SECONDS)
    percent = 100 * (cpu_seconds(node.pid) - cpu) / (trio.current_time() - began)
    rss = rss_kib(node.pid)
    await observer.wait(lambda: observer.total == tasks, timeout=1, what="all tasks still run")
    bare = await _kib_per_bare_trio_task(tasks)
    return Result(
        {
            "cpu_percent": round(percent, 2),
            "rss_mb": round(rss / 1024, 1),
            "kib_per_task": round((rss - empty) / tasks, 2),
            "kib_per_bare_trio_task": round(bare, 2),
        },
        {"kib_per_task": f"{bare:.2f} KiB for a Trio task that only sleeps"},
    )


async def _kib_per_bare_trio_task(count: int) -> float:
    """Measure in a new process, because this process would reuse memory that it already has."""
    command = [sys.executable, "-m", "stress.bench.bare", str(count)]
    return float((await trio.run_process(command, capture_stdout=True)).stdout)
