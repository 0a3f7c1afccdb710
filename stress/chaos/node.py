"""A node of a chaos run: `python -m stress.chaos.node`, a process of its own.

Its tasks append a line to the history when they start and stop, and write to a fenced store with their token. A task
with the property `seconds` ends after that time, and one with `poison` does what that says; the others run until they
are stopped. SIGTERM, or the command
`drain`, drains the node and ends the process. While ZooKeeper is unreachable, the node keeps trying to join.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import time
from functools import partial
from pathlib import Path

import trio

from metafora_trio import Consumer, CoordinatorUnavailable, RunningTask
from metafora_trio.events import Event, SessionOpened
from metafora_trio.testing.history import EventName, History
from metafora_trio_zookeeper import ZooKeeperCoordinator
from stress.history_writer import HistoryWriter

from .cluster import JOINED
from .poison_handlers import run_poison
from .store import StoreWriter

_PERIOD = (0.0, 0.3)
"""The shortest and longest pause between the answer to a write and the next write, in seconds. The pauses are short, so
that nearly always a write is in flight."""


class Work:
    """The work of a task.

    Args:
        history: records starts and stops.
        store: the store that the tasks write to.
        asked: the options of this process.
    """

    def __init__(self, history: HistoryWriter, store: StoreWriter, asked: argparse.Namespace) -> None:
        self._history = history
        self._store = store
        self._asked = asked
        # Seconds for which a task keeps running after its session was lost.
        self._overtime = 2 * asked.session_timeout if asked.broken == "lease" else 0.0

    async def handle(self, task: RunningTask) -> None:
        """The handler."""
        self._history.write("start", task)
        ended = False
        try:
            if "poison" in task.props:
                await self._run_poison(task)
            elif self._overtime:
                await self._ignore_lease(task, self._overtime)
            else:
                await self._write_on(task)
            ended = True
        except trio.Cancelled:
            raise
        except BaseException:  # a handler that raises has ended too; only a cancelled one has not
            ended = task.stop_reason is None
            raise
        finally:
            self._history.write("stop", task, ended=ended, reason=task.stop_reason or "")

    async def _run_poison(self, task: RunningTask) -> None:
        await run_poison(
            task,
            process=self._asked.process,
            session_timeout=self._asked.session_timeout,
            folder=Path(self._asked.store).parent,
            work=self._write_on,
            ignore_lease=self._ignore_lease,
        )

    async def _write_on(self, task: RunningTask) -> None:
        end = trio.current_time() + task.props.get("seconds", float("inf"))
        while trio.current_time() < end:
            write = self._store.put(task.id, task.token)
            try:
                await write.done.wait()
            finally:
                # A write in flight must end before the task does, as long as the lease allows.
                if not write.done.is_set():
                    self._store.hurry()
                with task.cleanup():
                    await write.done.wait()
            await trio.sleep(random.uniform(*_PERIOD))

    async def _ignore_lease(self, task: RunningTask, overtime: float) -> None:
        """Write until the task is told to stop, but ignore the end of the lease for `overtime` seconds."""
        with trio.CancelScope(shield=True) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_overtime, task, scope, overtime)
                await self._write_on(task)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            await trio.sleep_forever()  # outside the shield, so the cancellation arrives here

    async def _end_overtime(self, task: RunningTask, scope: trio.CancelScope, overtime: float) -> None:
        while task.stop_reason is None:
            with trio.move_on_after(0.1):
                await task.stopping.wait()
        with trio.move_on_after(overtime):
            await task.stopping.wait()
        scope.cancel()


async def _drain_by_signal(consumer: Consumer, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            consumer.start_draining()


def _note_thaws(path: str, process: str) -> None:
    """Record when this process continues after a SIGSTOP, before any other code of it runs.

    Only this process knows that time: on a busy machine it may be runnable long before it runs. The nemesis records the
    SIGCONT.
    """
    history = History(path, process=process)
    signal.signal(signal.SIGCONT, lambda number, frame: history.record(EventName.THAW))


def _note_join(process: str, event: Event) -> None:
    """Leave a file when the node joins."""
    if isinstance(event, SessionOpened):
        Path(JOINED).write_text(process)


async def _serve(asked: argparse.Namespace) -> None:
    _note_thaws(asked.history, asked.process)
    coordinator = ZooKeeperCoordinator(asked.hosts, session_timeout=asked.session_timeout)
    history = HistoryWriter(asked.history, asked.process)
    with StoreWriter(asked.store, asked.process, fenced=asked.broken != "fencing") as store:
        consumer = Consumer(
            coordinator,
            Work(history, store, asked).handle,
            name=asked.name,
            drain_timeout=asked.session_timeout + 2.0,
            on_overrun=asked.on_overrun,
            observers=[partial(_note_join, asked.process)],
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(_drain_by_signal, consumer)
            joined = False
            while not joined:
                try:
                    await consumer.run()
                    joined = True
                except CoordinatorUnavailable as error:
                    logging.warning("cannot join yet: %s", error)
                    await trio.sleep(0.5)
            nursery.cancel_scope.cancel()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stress.chaos.node", description=__doc__)
    for option in ("--hosts", "--name", "--process", "--history", "--store"):
        parser.add_argument(option, required=True)
    parser.add_argument("--session-timeout", type=float, required=True)
    parser.add_argument("--on-overrun", choices=("log", "exit"), default="log")
    parser.add_argument("--break", dest="broken", choices=("lease", "fencing"))
    asked = parser.parse_args()
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(format=f"%(asctime)s {asked.process}: %(levelname)s %(name)s: %(message)s")
    trio.run(_serve, asked)


if __name__ == "__main__":
    _main()
