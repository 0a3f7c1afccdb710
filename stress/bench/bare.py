"""The baseline of `idle`: `python -m stress.bench.bare COUNT` prints the KiB that one sleeping Trio task takes."""

from __future__ import annotations

import gc
import os
import sys

import trio
import trio.testing

from .proc import rss_kib


async def _measure(count: int) -> float:
    gc.collect()
    before = rss_kib(os.getpid())
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        per_task = (rss_kib(os.getpid()) - before) / count
        nursery.cancel_scope.cancel()
    return per_task


if __name__ == "__main__":
    print(trio.run(_measure, int(sys.argv[1])))
