"""The watchdog: a thread that checks the lease and the event loop from outside.

A handler that blocks the event loop, or shields itself past the end of the lease, cannot be stopped from inside Trio,
and a blocked loop cannot even report it. The watchdog never enters Trio: it reads a few numbers and a list, and logs an
overrun or ends the process because of it.

A blocked loop keeps its session, because the broker's connection may have a thread that answers for it. Otherwise
another node would run the blocking task as well. The watchdog makes that visible to others, and ends it after a while.

What it says goes to stderr or to log handlers, and either may block for ever. So each report has a thread of its own,
for which the watchdog waits a moment before it does what must be done.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import trio

from metafora_trio._model.lease import Lease
from metafora_trio._model.overrun import BlockedDetector, OverrunDetector

from .loop_monitor import LoopMonitor

__all__ = ["EXIT_CODE", "OnOverrun", "Watched", "watch"]

EXIT_CODE = 70
"""The exit status if the watchdog ends the process (EX_SOFTWARE in sysexits.h)."""
_PAUSE_AFTER_REPORT = 0.1
"""Seconds between two looks while an overrun lasts that has been reported."""
_REPORT_TIMEOUT = 1.0
"""Seconds to wait for a report to be written."""
_MAX_STACK = 4 * 1024

OnOverrun = Literal["log", "exit"]


class Watched(Protocol):
    """The part of a session that the watchdog uses."""

    lease: Lease

    def report_blocked(self, since: float) -> None: ...

    def abandon(self, reason: str) -> None: ...


def _in_time(report: Callable[[], None]) -> None:
    """Make a report in a thread of its own, and wait for it, but not for long.

    It may block for ever: nobody may read the pipe that it writes to, or the blocked event loop may hold a lock that it
    needs.
    """
    thread = threading.Thread(target=report, name="metafora-report", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the process may start no more threads
        report()
    else:
        thread.join(_REPORT_TIMEOUT)


def _stacks() -> str:
    """Return where every thread is. `faulthandler` would hold the interpreter's lock while it writes that."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread 0x{ident:x} {names.get(ident, '')}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def _print(text: str) -> None:
    """Write to stderr, if there is one."""
    if (stderr := sys.__stderr__ or sys.stderr) is not None:
        print(text, file=stderr, flush=True)


class _Watchdog:
    """The state shared with the thread. The Trio thread replaces each shared value atomically."""

    def __init__(
        self,
        session: Watched,
        loop: LoopMonitor,
        open_tasks: Callable[[], Sequence[str]],
        *,
        on_overrun: OnOverrun,
        blocked_timeout: float,
        logger: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        self.session = session
        self.loop = loop
        self.open_tasks = open_tasks
        self.on_overrun = on_overrun
        self.blocked_timeout = blocked_timeout
        self.logger = logger
        self.clock = clock
        self.stopped = threading.Event()
        self.watched_thread = threading.get_ident()
        self.overrun = OverrunDetector()
        self.blocked = BlockedDetector()

    def run(self) -> None:
        while not self.stopped.wait(self.look()):
            pass

    def look(self) -> float:
        """Look once. Returns the seconds until the next look."""
        lease = self.session.lease
        now, beat, end = self.clock(), self.loop.beat, lease.end
        if tasks := self.overrun.look(now, end, self.open_tasks):
            self.report_overrun(tasks, now - end)
        if self.blocked.look(now, beat, lease.cancel_at, end):
            self.report_blocked(now - beat)
        if self.blocked.give_up(now, beat, self.blocked_timeout):
            self.give_up(now - beat)
        if self.overrun.reported(end):
            return _PAUSE_AFTER_REPORT
        return self.overrun.until_next_look(now, end)

    def report_overrun(self, tasks: Sequence[str], late: float) -> None:
        named = ", ".join(tasks[:10]) + (f" and {len(tasks) - 10} more" if len(tasks) > 10 else "")
        message = (
            f"the lease ended {late:.3f} s ago and these tasks have not closed their scopes: {named}; "
            "another node may be running them"
        )
        if self.on_overrun == "log":
            self.log("%s", message)
            return
        try:
            _in_time(lambda: _print(f"metafora: {message}; ending this process\n{_stacks()}"))
        finally:
            os._exit(EXIT_CODE)

    # Tell the session first, because it takes a while if the report cannot be written.

    def report_blocked(self, seconds: float) -> None:
        self.session.report_blocked(time.time() - seconds)
        self.log(
            "the event loop has been blocked for %.1f s, so no task of this node goes on. It is here:\n%s",
            seconds,
            self.stack(),
        )

    def give_up(self, seconds: float) -> None:
        reason = f"the event loop was blocked for {seconds:.1f} s"
        self.session.abandon(reason)
        self.log("%s; giving up the session, so that other nodes take its tasks\n%s", reason, self.stack())

    def log(self, message: str, *arguments: object) -> None:
        _in_time(lambda: self.logger.critical(message, *arguments))

    def stack(self) -> str:
        """Return where the watched thread is."""
        frame = sys._current_frames().get(self.watched_thread)
        return "".join(traceback.format_stack(frame))[-_MAX_STACK:] if frame is not None else "(the thread has ended)"


@contextmanager
def watch(
    session: Watched,
    loop: LoopMonitor,
    open_tasks: Callable[[], Sequence[str]],
    *,
    on_overrun: OnOverrun,
    blocked_timeout: float,
    logger: logging.Logger,
) -> Generator[None]:
    """Watch a lease and the event loop in a thread while the body runs.

    Args:
        session: its lease is watched; it is told about a blocked loop.
        loop: shows whether the event loop runs.
        open_tasks: returns the ids of the tasks whose scope is open. It is called in the thread, so it must be quick
            and thread-safe.
        on_overrun: "log" reports the overrun; "exit" prints the tracebacks of all threads to stderr and ends the
            process with status 70.
        blocked_timeout: the seconds for which a blocked event loop keeps its session.
        logger: receives the reports.

    Leaving the body stops the thread at once.
    """
    watchdog = _Watchdog(
        session,
        loop,
        open_tasks,
        on_overrun=on_overrun,
        blocked_timeout=blocked_timeout,
        logger=logger,
        clock=trio.lowlevel.current_clock().current_time,
    )
    thread = threading.Thread(target=watchdog.run, name="metafora-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stopped.set()
        thread.join()
