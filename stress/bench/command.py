"""The benchmarks: `python -m stress.bench NAME`. Each starts a ZooKeeper of its own, and ends it."""

from __future__ import annotations

import argparse
import json
import operator
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from stress.arguments import at_least
from stress.signals import until_signal

from .client import client
from .cluster import Cluster, open_cluster
from .cold_start import claims, start_together
from .idle import idle
from .moves import failover, handover, join
from .result import Result

__all__ = ["BENCHMARKS", "Benchmark", "main", "table"]

_COMPARE = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        run: runs the benchmark on a cluster with a number of tasks.
        tasks: the default number of tasks.
        about: one line for `--help`.
        targets: for some figures, the comparison that they should meet: an operator, and a number or the key of
            another figure.
    """

    run: Callable[[Cluster, int], Awaitable[Result]]
    tasks: int
    about: str
    targets: dict[str, tuple[str, float | str]] = field(default_factory=dict)


BENCHMARKS = {
    "claims": Benchmark(
        claims,
        10_000,
        "one node takes all tasks; against single creates by stock kazoo",
        {"ratio": (">=", 2.0), "attempts_per_task": ("<=", 1.05), "duplicates": ("=", 0)},
    ),
    "cluster": Benchmark(
        start_together,
        5_000,
        "five node processes start within a second",
        {"seconds": ("<=", 15), "spread": ("<=", 1), "attempts_per_task": ("<=", 1.2), "duplicates": ("=", 0)},
    ),
    "failover": Benchmark(
        failover,
        3_000,
        "one of three node processes is killed; session timeout 4 s",
        {"reclaim_seconds": ("<=", 1.0), "spread": ("<=", 1), "duplicates": ("=", 0), "lost": ("=", 0)},
    ),
    "handover": Benchmark(
        handover,
        3_000,
        "one of three nodes drains",
        {"gap_p50_ms": ("<=", 20), "gap_p99_ms": ("<=", 100), "overlap_ms": ("=", 0), "duplicates": ("=", 0)},
    ),
    "join": Benchmark(
        join,
        900,
        "a fourth node joins three",
        {"seconds": ("<=", 10), "moves": ("=", "minimum_moves"), "spread": ("<=", 1), "overlap_ms": ("=", 0)},
    ),
    "idle": Benchmark(
        idle,
        10_000,
        "one node whose tasks sleep, for 20 s; against bare Trio tasks",
        {"cpu_percent": ("<=", 3), "kib_per_task": ("<=", 16)},
    ),
    "client": Benchmark(
        client,
        100_000,
        "one client submits, reads, waits for and deletes all tasks, which are claimed",
        {"get_ms": ("<=", 1), "wait_seconds": ("<=", 30), "delete_per_s": (">=", 15_000)},
    ),
}

_PROMISES = ("duplicates", "lost", "overlap_ms")
"""Figures that must be 0 on every machine."""


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:10}{one.about} ({one.tasks:,} tasks)" for name, one in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m stress.bench",
        description=f"{__doc__}\n\nbenchmarks:\n{names}",
        epilog=(
            "examples:\n"
            "  python -m stress.bench claims\n"
            "  python -m stress.bench failover --tasks 300 --servers 3\n"
            "  python -m stress.bench idle --json | tail -1\n\n"
            "Progress goes to standard error. Exit status: 0 measured, whether or not the targets are met; 1 the run\n"
            "failed or broke a promise (a duplicate run, a lost task, an overlap); 2 usage; 130 interrupted."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=BENCHMARKS, help="the benchmark to run")
    parser.add_argument(
        "--tasks", type=at_least(12), metavar="N", help="number of tasks in the whole cluster, at least 12"
    )
    parser.add_argument("--servers", type=at_least(1), metavar="N", default=1, help="number of ZooKeeper servers (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")
    return parser


def _verdict(result: Result, target: tuple[str, float | str], value: float) -> str:
    sign, wanted = target
    limit = result.figures[wanted] if isinstance(wanted, str) else wanted
    met = _COMPARE[sign](value, limit)
    return f"{'ok' if met else 'MISSED':8}target {sign} {limit:g}"


def table(name: str, result: Result) -> str:
    """Format the figures one a line, with their targets and baselines."""
    targets = BENCHMARKS[name].targets
    lines = []
    for key, value in result.figures.items():
        target = _verdict(result, targets[key], value) if key in targets else ""
        baseline = f"baseline: {result.baselines[key]}" if key in result.baselines else ""
        lines.append(f"{key:24}{value:>12,}  {target:24}{baseline}".rstrip())
    return "\n".join(lines)


async def _measure(benchmark: Benchmark, tasks: int, servers: int) -> Result | None:
    """Run a benchmark. Return None if a signal ended it."""
    result = None
    async with until_signal(), open_cluster(servers) as cluster:
        result = await benchmark.run(cluster, tasks)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    asked = _parser().parse_args(arguments)
    benchmark = BENCHMARKS[asked.name]
    result = trio.run(_measure, benchmark, asked.tasks or benchmark.tasks, asked.servers)
    if result is None:
        return 130
    print(table(asked.name, result), file=sys.stderr if asked.json else sys.stdout, flush=True)
    if asked.json:
        print(json.dumps(result.figures))
    return int(any(result.figures.get(key) for key in _PROMISES))
