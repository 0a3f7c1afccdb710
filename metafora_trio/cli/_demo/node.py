"""One node of the demonstration; as a process: `python -m metafora_trio.cli._demo.node URL NAME HISTORY`.

It writes a line to stdout when it has joined. It ends when it has drained, or at once when its stdin ends: whatever
becomes of the demonstration, SIGKILL included, the pipe then closes, and no node outlives it.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import trio

from metafora_trio import Consumer, Handler, RunningTask
from metafora_trio.cli._coordinators import coordinator_from_url
from metafora_trio.testing.history import History

__all__ = ["recording"]

_DRAIN_TIMEOUT = 10.0


def recording(history: History) -> Handler:
    """Make a handler that works for ever, and itself writes down when it starts and stops."""

    async def work(task: RunningTask) -> None:
        history.start(task.id, task.token, task.node)
        try:
            await trio.sleep_forever()
        finally:
            history.stop(task.id, task.token, task.node)

    return work


async def _main(url: str, name: str, path: str) -> None:
    with History(path, process=name) as history:
        consumer = Consumer(coordinator_from_url(url), recording(history), name=name, drain_timeout=_DRAIN_TIMEOUT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_end_of_stdin, nursery)
            await nursery.start(lambda task_status: _run(consumer, nursery, task_status))
            print("joined", flush=True)


async def _run(  # noqa: ASYNC128 - consumer.run calls started()
    consumer: Consumer, nursery: trio.Nursery, task_status: trio.TaskStatus[None]
) -> None:
    await consumer.run(task_status=task_status)
    nursery.cancel_scope.cancel()


async def _cancel_at_end_of_stdin(nursery: trio.Nursery) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        async for _ in stdin:
            pass
    nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(partial(_main, *sys.argv[1:4]))
