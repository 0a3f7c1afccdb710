"""The watchdog: the core's only thread, which checks the lease from outside the event loop.

A handler that blocks the event loop, or shields itself past the end of the lease, cannot be stopped from inside Trio,
and a blocked loop cannot even report it. The watchdog never enters Trio: it reads two numbers and a list, and
logs an overrun or ends the process because of it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Literal

import trio

from metafora_trio._model.lease import Lease
from metafora_trio._model.overrun import OverrunDetector

__all__ = ["EXIT_CODE", "OnOverrun", "watch_lease"]

EXIT_CODE = 70
"""The exit status if the watchdog ends the process (EX_SOFTWARE in sysexits.h)."""

OnOverrun = Literal["log", "exit"]


class _Watchdog:
    """The state shared with the thread. The Trio thread replaces each shared value atomically."""

    def __init__(
        self,
        lease: Lease,
        open_tasks: Callable[[], Sequence[str]],
        on_overrun: OnOverrun,
        logger: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        self.lease = lease
        self.open_tasks = open_tasks
        self.on_overrun = on_overrun
        self.logger = logger
        self.clock = clock
        self.stopped = threading.Event()

    def run(self) -> None:
        detector = OverrunDetector()
        while True:
            now, end = self.clock(), self.lease.end
            if tasks := detector.look(now, end, self.open_tasks):
                self.report(tasks, now - end)
            if self.stopped.wait(detector.until_next_look(now, end)):
                return

    def report(self, tasks: Sequence[str], late: float) -> None:
        named = ", ".join(tasks[:10]) + (f" and {len(tasks) - 10} more" if len(tasks) > 10 else "")
        message = (
            f"the lease ended {late:.3f} s ago and these tasks have not closed their scopes: {named}; "
            "another node may be running them"
        )
        if self.on_overrun == "log":
            self.logger.critical("%s", message)
            return
        try:
            stderr = sys.__stderr__ or sys.stderr
            print(f"metafora: {message}; ending this process", file=stderr, flush=True)
            faulthandler.dump_traceback(file=stderr, all_threads=True)
        finally:  # even if stderr is closed
            os._exit(EXIT_CODE)


@contextmanager
def watch_lease(
    lease: Lease, open_tasks: Callable[[], Sequence[str]], on_overrun: OnOverrun, logger: logging.Logger
) -> Generator[None]:
    """Watch a lease in a thread while the body runs.

    Args:
        lease: the lease whose `end` to watch.
        open_tasks: returns the ids of the tasks whose scope is open. It is called in the thread, so it must be quick
            and thread-safe.
        on_overrun: "log" reports the overrun; "exit" prints the tracebacks of all threads to stderr and ends the
            process with status 70.
        logger: receives the report of "log".

    Leaving the body stops the thread at once.
    """
    clock = trio.lowlevel.current_clock()
    watchdog = _Watchdog(lease, open_tasks, on_overrun, logger, clock.current_time)
    thread = threading.Thread(target=watchdog.run, name="metafora-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stopped.set()
        thread.join()
