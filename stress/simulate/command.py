"""Searches for broken promises on virtual time: `python -m stress.simulate --minutes 10 --seed 1`.

Hypothesis draws histories of a simulated cluster (`machine.py`) on all cores until the time is over or a history breaks
a promise. That history is shortened, printed and saved; `python -m stress.simulate.replay FILE` replays it. Ctrl-C ends
the search and prints a summary of the work done so far. Exit status: 1 if a promise was broken; 2 usage; 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from pathlib import Path

from stress.arguments import at_least
from stress.pool import open_pool

from .brokers import BROKERS
from .search import search
from .tally import Tally

__all__ = ["main"]

_BATCH = 50
"""Histories that a process draws before it reports."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser("python -m stress.simulate", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to search (1)")
    parser.add_argument("--histories", type=at_least(1), help="how many histories to draw, however long that takes")
    parser.add_argument("--seed", type=int, help="the same seed draws the same histories (random)")
    parser.add_argument("--broker", choices=list(BROKERS), default="zookeeper", help="the broker (zookeeper)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=at_least(1), default=cores, help="the number of processes (all cores)")
    parser.add_argument("--save", type=Path, default=Path(), help="a folder for the history that breaks a promise (.)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    options = parser.parse_args(arguments)
    if options.histories is None and not options.minutes > 0:
        parser.error(f"--minutes: {options.minutes:g} is not more than 0")
    if not options.save.is_dir():
        parser.error(f"--save: no folder {options.save}")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    end = began + options.minutes * 60 if options.histories is None else None
    print(f"seed {seed}, {options.processes} processes", file=sys.stderr)
    total = Tally()
    interrupted = False
    try:
        with closing(_search_all(seed, options.processes, end, options.histories, options.broker)) as tallies:
            for tally in tallies:
                total.merge(tally)
                rate = total.histories / (time.monotonic() - began)
                print(f"\r{total.histories:,} histories, {rate:.1f} a second", end=" ", file=sys.stderr, flush=True)
                if total.failure is not None:
                    break
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted", end="", file=sys.stderr)
    print(file=sys.stderr)
    summary = {
        "histories": total.histories,
        "steps": total.steps,
        "virtual_hours": round(total.seconds / 3600, 2),
        "faults": total.faults.total(),
        "overruns": total.overruns,
        "violations": int(total.failure is not None),
        "per_second": round(total.histories / (time.monotonic() - began), 1),
        "seed": seed,
    }
    for name, value in summary.items():
        print(f"{name:14} {value:,}")
    for name, count in total.faults.most_common():
        print(f"  {name:14} {count:12,}" + (f"   breaks: {broken}" if (broken := total.assumptions.get(name)) else ""))
    if total.failure is not None:
        file = options.save / f"violation-{seed}.json"
        file.write_text(total.failure.script.encode())
        print(f"{total.failure.problem}\n{total.failure.script.encode()}", end="")
        print(f"replay it: python -m stress.simulate.replay {file}")
    if options.json:
        print(json.dumps(summary))
    return 130 if interrupted and total.failure is None else int(total.failure is not None)


def _search_all(seed: int, processes: int, end: float | None, histories: int | None, broker: str) -> Generator[Tally]:
    """Search in batches. Each has a seed of its own, so it is the same whichever process searches it."""
    seeds = random.Random(seed)
    left = histories
    with open_pool(processes) as pool:
        busy: set[Future[Tally]] = set()
        while True:
            while len(busy) < processes + 1 and (left is None or left > 0):
                if end is not None and time.monotonic() >= end:
                    break
                count = _BATCH if left is None else min(_BATCH, left)
                left = None if left is None else left - count
                busy.add(pool.submit(search, seeds.getrandbits(64), count, broker=broker))
            if not busy:
                return
            done, busy = wait(busy, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
