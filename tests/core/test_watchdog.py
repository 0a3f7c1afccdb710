"""Watchdog: a thread outside the event loop that reports tasks still open after the end of the lease.

Time is real in these tests, because threads do not follow Trio's virtual clock. The program that the watchdog ends runs
in a process of its own.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from metafora_trio._model.lease import Lease
from metafora_trio._node.loop_monitor import LoopMonitor
from metafora_trio._node.watchdog import EXIT_CODE, OnOverrun, _Watchdog, watch
from tests.support.nodes import open_cluster
from tests.support.processes import wait_until

LOGGER = logging.getLogger("metafora_trio.test")


class WatchedSession:
    """The part of a session that the watchdog uses; records what it is told."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.blocked_since: list[float] = []
        self.abandoned: list[str] = []

    def report_blocked(self, since: float) -> None:
        self.blocked_since.append(since)

    def abandon(self, reason: str) -> None:
        self.abandoned.append(reason)


class Beats:
    """A loop monitor whose beat a test sets."""

    def __init__(self, beat: float) -> None:
        self.beat = beat


def watch_lease(
    lease: Lease, open_tasks: Callable[[], Sequence[str]], on_overrun: OnOverrun = "log"
) -> AbstractContextManager[None]:
    """Watch a lease while the loop beats for ever."""
    loop = cast(LoopMonitor, Beats(math.inf))
    return watch(
        WatchedSession(lease), loop, open_tasks, on_overrun=on_overrun, blocked_timeout=math.inf, logger=LOGGER
    )


def make_watchdog(
    lease: Lease,
    open_tasks: Callable[[], Sequence[str]],
    on_overrun: OnOverrun,
    clock: Callable[[], float],
    *,
    beat: float = math.inf,
    blocked_timeout: float = math.inf,
) -> _Watchdog:
    return _Watchdog(
        WatchedSession(lease),
        cast(LoopMonitor, Beats(beat)),
        open_tasks,
        on_overrun=on_overrun,
        blocked_timeout=blocked_timeout,
        logger=LOGGER,
        clock=clock,
    )


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


async def wait_for(records: list[logging.LogRecord], count: int) -> None:
    with trio.fail_after(10):
        while len(records) < count:  # noqa: ASYNC110 - a thread writes them
            await trio.sleep(0.01)


async def test_thread_lives_as_long_as_the_body() -> None:
    """The thread runs while the body runs and ends with it, even before the end of the lease."""
    before = threads()
    lease = Lease(cancel_at=trio.current_time() + 99, end=trio.current_time() + 100)
    with watch_lease(lease, lambda: ["t"]):
        assert "metafora-watchdog" in threads()
    assert threads() == before


async def test_reports_open_tasks_once(caplog: pytest.LogCaptureFixture) -> None:
    """Tasks that are open after the end of the lease are reported by name, once for each lease."""
    now = trio.current_time()
    lease = Lease(cancel_at=now, end=now + 0.02)
    with watch_lease(lease, lambda: [f"t{i}" for i in range(12)]):
        await wait_for(caplog.records, 1)
        await trio.sleep(0.15)
        assert len(caplog.records) == 1
        lease.end = trio.current_time()  # another end, already past
        await wait_for(caplog.records, 2)
    first, second = caplog.records
    assert (first.levelno, second.levelno) == (logging.CRITICAL, logging.CRITICAL)
    assert "t0, t1, t2, t3, t4, t5, t6, t7, t8, t9 and 2 more" in first.getMessage()
    assert "another node may be running them" in first.getMessage()


async def test_no_open_task_no_report(caplog: pytest.LogCaptureFixture) -> None:
    """The end of a lease is not reported if no task is open. After a renewal, the watchdog waits for the new end."""
    now = trio.current_time()
    lease = Lease(cancel_at=now, end=now)
    open_tasks: list[str] = []
    with watch_lease(lease, lambda: open_tasks):
        await trio.sleep(0.15)
        lease.end = trio.current_time() + 100
        open_tasks.append("t")
        await trio.sleep(0.15)
    assert caplog.records == []


async def test_reports_while_the_event_loop_is_blocked(caplog: pytest.LogCaptureFixture) -> None:
    """The watchdog reports open tasks even while a handler blocks the event loop."""
    now = trio.current_time()
    with watch_lease(Lease(cancel_at=now, end=now + 0.02), lambda: ["t"]):
        wait_until(lambda: caplog.records)  # blocks, as a handler should not
    assert "t" in caplog.records[0].getMessage()


class ThawedAfterFirstWait(threading.Event):
    """Simulates a process that is frozen for 100 s in its first wait. Later waits take exactly their timeout."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.now = 0.0
        self.looks = looks

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout if self.now else 100.0
        self.looks -= 1
        return self.looks == 0


@pytest.mark.parametrize("closed_after, reports", [(0.04, 0), (0.2, 1)])
def test_thawed_process_has_time_to_close(monkeypatch: pytest.MonkeyPatch, closed_after: float, reports: int) -> None:
    """A task that a thawed process closes within 50 ms is not reported; one that stays open longer is."""
    thawed = ThawedAfterFirstWait(looks=50)
    watchdog = make_watchdog(
        Lease(end=1.0), lambda: ["t"] if thawed.now < 100.0 + closed_after else [], "log", lambda: thawed.now
    )
    watchdog.stopped = thawed
    reported: list[float] = []
    monkeypatch.setattr(watchdog, "report_overrun", lambda tasks, late: reported.append(late))
    watchdog.run()
    assert len(reported) == reports


def test_blocked_loop_is_reported_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A loop that has not run since its tasks should have been cancelled is reported with the place where it is."""
    now = 100.0
    lease = Lease(cancel_at=102.0, end=102.5)
    loop = Beats(100.0)
    watchdog = make_watchdog(lease, lambda: [], "log", lambda: now, blocked_timeout=12.0)
    watchdog.loop = cast(LoopMonitor, loop)
    session = cast(WatchedSession, watchdog.session)

    def look_until(end: float) -> None:
        nonlocal now
        while now < end:
            now += watchdog.look()

    look_until(102.5)
    assert (session.blocked_since, caplog.records) == ([], [])
    look_until(111.9)
    (since,) = session.blocked_since
    assert since == pytest.approx(time.time() - 2.55, abs=1.0)
    assert session.abandoned == []
    look_until(130.0)
    assert session.abandoned == ["the event loop was blocked for 12.0 s"]
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL] * 2
    assert "the event loop has been blocked for 2.6 s" in caplog.records[0].getMessage()
    assert all("in look_until" in record.getMessage() for record in caplog.records)
    assert len(session.blocked_since) == 1
    loop.beat = 130.0  # it runs again: the session is lost, but the watchdog goes on as long as scopes are open
    look_until(150.0)
    assert len(caplog.records) == 2
    watchdog.watched_thread = -1
    assert watchdog.stack() == "(the thread has ended)"


@pytest.mark.parametrize("beat", [102.0, 103.0])
def test_loop_that_runs_is_not_blocked(beat: float) -> None:
    """A handler that only ignores its cancellation does not block the loop, however long it takes."""
    now = 100.0
    watchdog = make_watchdog(Lease(cancel_at=102.0, end=102.5), lambda: ["t"], "log", lambda: now, beat=beat)
    while now < 200.0:
        now += watchdog.look()
    assert cast(WatchedSession, watchdog.session).blocked_since == []


async def test_lag_of_the_loop(autojump_clock: MockClock) -> None:
    """The lag is the largest of the last half to whole minute."""
    loop = LoopMonitor(0.5)
    lags = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run)
        for late in (2.0, 1.0, 0.0, 0.0, 0.0):
            await trio.sleep(20.1)
            autojump_clock.jump(late)
            await trio.sleep(1)
            lags.append(round(loop.lag, 1))
        nursery.cancel_scope.cancel()
    assert lags[:2] == [pytest.approx(2.0, abs=0.5)] * 2
    assert lags[-1] < 0.5


def test_exit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Before it ends the process, the watchdog writes the reason and the tracebacks of all threads to stderr."""
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    lease = Lease(end=1.0)
    watchdog = make_watchdog(lease, lambda: ["t"], "exit", lambda: 1.25)
    watchdog.report_overrun(["t"], 0.25)
    assert codes == [EXIT_CODE] == [70]
    stderr = capfd.readouterr().err
    assert "the lease ended 0.250 s ago and these tasks have not closed their scopes: t;" in stderr
    assert "ending this process" in stderr
    assert "test_exit" in stderr


def test_exit_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends even if it has no stderr to write to."""

    class Gone(Exception):
        pass

    def leave(code: int) -> None:
        raise Gone(code)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("sys.__stderr__", None)
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(Gone, match="70"):
        make_watchdog(Lease(end=1.0), lambda: ["t"], "exit", lambda: 1.25).report_overrun(["t"], 0.25)


async def test_lag_is_in_the_record_and_the_statistics(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that was late by a twelfth of the session timeout is worth a notice, until it has long been in time."""
    lag = [0.9]
    monkeypatch.setattr(LoopMonitor, "lag", property(lambda self: lag[0]))
    async with open_cluster(session_timeout=12.0) as cluster:
        node = await cluster.start("a")
        await trio.sleep(10)
        assert (await cluster.client.nodes())[0].node.notices == ()
        lag[0] = 1.5
        await trio.sleep(10)
        (notice,) = (await cluster.client.nodes())[0].node.notices
        assert notice == "its event loop was late by up to 1.5 s in the last minute"
        assert node.consumer.statistics().loop_lag == 1.5
        lag[0] = 0.0
        await trio.sleep(10)
        assert (await cluster.client.nodes())[0].node.notices == ()


PROGRAM = """
import os, sys, threading
import trio
from metafora_trio import Consumer, MemoryCoordinator, Task, open_client
from metafora_trio._memory.session import MemorySession

MemorySession.watched = True  # as for a coordinator with a lease in real time

async def blocks(task):
    print("runs", flush=True)
    threading.Event().wait()

async def shields(task):
    print("runs", flush=True)
    with trio.CancelScope(shield=True):
        await trio.sleep(60)

async def main():
    coordinator = MemoryCoordinator(session_timeout=2.0)
    handler = {"blocks": blocks, "shields": shields}[sys.argv[1]]
    consumer = Consumer(coordinator, handler, name="a", on_overrun=sys.argv[2], settle=0.0)
    async with open_client(coordinator) as client, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: consumer.run(task_status=task_status))
        await client.submit(Task("stubborn"))
        if sys.argv[1] == "shields":
            while "stubborn" not in consumer.tasks:
                await trio.sleep(0.01)
            coordinator.partition(consumer.statistics().node)
        await trio.sleep(2)
        print("survives", flush=True)
        os._exit(0)  # the handler would not let the nursery close

trio.run(main)
"""


ROOT = Path(__file__).parents[2]


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def start_program(*arguments: str, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr
    )


@pytest.mark.parametrize("handler", ["blocks", "shields"])
def test_process_is_ended(handler: str) -> None:
    """With `on_overrun="exit"`, a handler that outlives the lease ends its process, with status 70 and tracebacks."""
    run = run_program(handler, "exit")
    assert run.returncode == 70
    assert run.stdout == "runs\n"
    assert "these tasks have not closed their scopes: stubborn; another node may be running them" in run.stderr
    assert "metafora-watchdog" in run.stderr or "Thread 0x" in run.stderr
    if handler == "blocks":
        assert "in blocks" in run.stderr


def test_process_survives_with_log() -> None:
    """With `on_overrun="log"`, the overrun is reported and the process keeps running."""
    run = run_program("shields", "log")
    assert (run.returncode, run.stdout) == (0, "runs\nsurvives\n")
    assert "these tasks have not closed their scopes: stubborn" in run.stderr


@pytest.mark.parametrize("handler", ["blocks", "shields"])
def test_process_is_ended_although_nobody_reads_its_stderr(handler: str) -> None:
    """A full pipe, to which neither the log nor the tracebacks can be written, does not keep the process alive."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(65536))
        os.set_blocking(writer, True)
        with start_program(handler, "exit", stderr=writer) as process:
            try:
                assert process.wait(timeout=30) == 70
            finally:
                process.kill()
    finally:
        os.close(reader)
        os.close(writer)


def test_report_that_blocks_keeps_the_watchdog_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a log handler's lock is held for ever, the watchdog gives the session of a blocked loop up all the same."""
    monkeypatch.setattr("metafora_trio._node.watchdog._REPORT_TIMEOUT", 0.05)
    unblock = threading.Event()

    class Blocks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            unblock.wait()

    logger = logging.Logger("blocked")
    logger.addHandler(Blocks())
    now = 100.0
    watchdog = make_watchdog(Lease(cancel_at=102.0, end=102.5), lambda: ["t"], "log", lambda: now, beat=100.0)
    watchdog.logger, watchdog.blocked_timeout = logger, 12.0
    session = cast(WatchedSession, watchdog.session)
    try:
        while now < 115.0:
            now += watchdog.look()
        assert len(session.abandoned) == 1
    finally:
        unblock.set()
        for thread in threading.enumerate():
            if thread.name == "metafora-report":
                thread.join()


def test_report_without_a_thread(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If the process may start no more threads, the watchdog reports all the same."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    make_watchdog(Lease(end=1.0), lambda: ["t"], "log", lambda: 1.25).report_overrun(["t"], 0.25)
    assert "these tasks have not closed their scopes: t" in caplog.text
