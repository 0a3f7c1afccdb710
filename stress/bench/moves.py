"""Benchmarks of tasks that move between nodes: `failover`, `handover` and `join`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import trio

from .cluster import Cluster, NodeProcess
from .result import Result
from .stock import Witness, round_trip_ms

__all__ = ["failover", "handover", "join", "minimum_moves"]

QUIET = 5.0
"""Seconds without a move after which no more moves are expected: longer than every delay and tick of a node."""


def minimum_moves(loads: Sequence[int], newcomers: int) -> int:
    """Return the fewest moves after which no two nodes differ by more than one task.

    Args:
        loads: the number of tasks of each node.
        newcomers: the number of nodes that have joined and have no tasks.
    """
    base, extra = divmod(sum(loads), len(loads) + newcomers)
    fullest_first = sorted(loads, reverse=True)
    return sum(max(0, load - base - (rank < extra)) for rank, load in enumerate(fullest_first))


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """Return a percentile by nearest rank; 0 if there are no values."""
    return ascending[max(0, math.ceil(fraction * len(ascending)) - 1)] if ascending else 0.0


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


async def _three_nodes(cluster: Cluster, tasks: int, *, session_timeout: float = 10.0) -> list[NodeProcess]:
    """Start three nodes, and wait until they share all tasks evenly and no task moves."""
    observer = cluster.observer
    await cluster.submit(tasks)
    nodes = await cluster.load_nodes(3, session_timeout=session_timeout)
    await cluster.join(nodes)
    names = [node.name for node in nodes]
    await observer.wait(
        lambda: observer.total == tasks and observer.spread(names) <= 1, timeout=120, what="all tasks run, evenly"
    )
    await observer.wait_quiet(QUIET, timeout=60)
    cluster.say(f"three nodes run {tasks} tasks")
    return nodes


async def failover(cluster: Cluster, tasks: int) -> Result:
    """Kill one of three nodes, and time how long its tasks do not run.

    Detection is ZooKeeper's part: from the kill until the node's znode is deleted. Reclaiming is our part: from then
    until each of its tasks runs again.
    """
    observer = cluster.observer
    victim, *others = await _three_nodes(cluster, tasks, session_timeout=4)
    orphans = len(observer.running[victim.name])
    async with Witness(cluster.hosts, f"/metafora/nodes/{victim.identity}") as znode:
        killed = await victim.kill()
        cluster.say(f"{victim.name} is killed, with {orphans} tasks")
        gone = await znode.gone()
    await observer.wait(lambda: observer.total == tasks, timeout=120, what="all tasks run again")
    again = observer.last
    await observer.wait_quiet(QUIET, timeout=60)
    spread = observer.spread(node.name for node in others)
    verdict = observer.verdict()
    return Result(
        {
            "detect_seconds": round((gone - killed) / 1e9, 3),
            "reclaim_seconds": round((again - gone) / 1e9, 3),
            "spread": spread,
            "duplicates": verdict.duplicate_runs,
            "lost": verdict.tasks_lost,
        },
        {"detect_seconds": "4 s of session timeout and up to one tick of 0.5 s, less the age of the last heartbeat"},
    )


async def handover(cluster: Cluster, tasks: int) -> Result:
    """Drain one of three nodes, and time how long each of its tasks does not run."""
    observer = cluster.observer
    leaver = (await _three_nodes(cluster, tasks))[0]
    cluster.say(f"{leaver.name} drains, with {len(observer.running[leaver.name])} tasks")
    began = time.monotonic_ns()
    await leaver.ask("drain")
    await observer.wait(lambda: observer.total == tasks, timeout=120, what="all tasks run again")
    await observer.wait_quiet(QUIET, timeout=60)
    gaps = observer.gaps_since(began)
    seconds = (observer.last - began) / 1e9
    verdict = observer.verdict()
    round_trip = await trio.to_thread.run_sync(round_trip_ms, cluster.hosts)
    return Result(
        {
            "seconds": round(seconds, 3),
            "gap_p50_ms": _ms(percentile(gaps, 0.5)),
            "gap_p99_ms": _ms(percentile(gaps, 0.99)),
            "overlap_ms": _ms(verdict.overlap_seconds),
            "duplicates": verdict.duplicate_runs,
        },
        {"gap_p50_ms": f"{round_trip:.2f} ms for one write by stock kazoo when nothing else happens"},
    )


async def join(cluster: Cluster, tasks: int) -> Result:
    """Let a fourth node join three, and time how long tasks move: from its join until the last move."""
    observer = cluster.observer
    nodes = await _three_nodes(cluster, tasks)
    newcomer = await cluster.load_node()
    loads = [len(observer.running[node.name]) for node in nodes]
    cluster.say("a fourth node joins")
    began = time.monotonic_ns()
    await newcomer.join()
    await observer.wait(lambda: bool(observer.running[newcomer.name]), timeout=120, what="the newcomer runs a task")
    await observer.wait_quiet(QUIET, timeout=60)
    starts = observer.starts_since(began)
    gaps = observer.gaps_since(began)
    minimum = minimum_moves(loads, 1)
    spread = observer.spread(node.name for node in [*nodes, newcomer])
    return Result(
        {
            "seconds": round((starts[-1] - began) / 1e9, 3),
            "moves": len(starts),
            "minimum_moves": minimum,
            "spread": spread,
            "gap_p99_ms": _ms(percentile(gaps, 0.99)),
            "overlap_ms": _ms(observer.verdict().overlap_seconds),
        },
        {"moves": f"{minimum} at least"},
    )
