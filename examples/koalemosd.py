"""koalemosd: a node that runs programs. Each task holds the argument list of a program and runs on one node at a time.

    koalemosd.py --url zk://127.0.0.1:2181/koalemos --name ant
    koalemosctl.py --url zk://127.0.0.1:2181/koalemos sleep 3

A task's properties are `{"args": ["sleep", "3"]}`. The program runs in a process group of its own, without input, with
`KOALEMOS_TASK` and `KOALEMOS_TOKEN` (the fencing token) in its environment; its output goes to the log, line by line.

* **The program ends by itself:** with exit code 0, the task is completed. With any other code (127 if there is no such
  program, as in a shell; 128 and more for a signal), the task has failed, and its record keeps the code and the last
  lines of stderr. Any process left in the program's group is killed.
* **The program has to stop** (the task moves or is deleted, the node drains, the session is lost): the group gets
  SIGTERM, and SIGKILL after `--grace` or at the end of the lease. Whatever the exit code, the task then runs elsewhere,
  unless it was deleted.
* **The daemon dies, even by SIGKILL:** its reaper (koalemos_reaper.py) kills the groups at once.
* **The daemon freezes** (SIGSTOP, a suspended machine, a blocked event loop): the daemon regularly sends the end of its
  lease to the reaper. The reaper kills the groups when the lease ends, before any other node may start the task.

Not covered: a program that leaves its process group (`setsid`; run it in a container or a systemd scope), and a
SIGKILL to daemon and reaper at once. Under systemd use `KillMode=mixed`: then the daemon can drain, and any processes
left after its end are killed.

On SIGTERM or SIGINT the daemon hands everything over and exits with 0; a second signal stops it at once. Exit codes:
0 drained, 1 stopped at once or the reaper has died, 2 usage, 5 ZooKeeper is unreachable.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from metafora_trio import Consumer, Coordinator, CoordinatorUnavailable, InvalidName, RunningTask

logger = logging.getLogger("koalemosd")

# The shell's standard input is the reaper's pipe. The shell registers itself with the reaper before it becomes the
# program. So no program ever runs that the reaper does not know, and without a reaper no program starts.
LAUNCH = 'echo "$$ $1" >&0 && shift && exec "$@" </dev/null'
REAPER = Path(__file__).with_name("koalemos_reaper.py")
RENEW_EVERY = 0.25
KILL_BEFORE_END = 0.05
"""Seconds before the end of the lease at which a program that ignores SIGTERM is killed."""
LAST_OUTPUT = 1.0
"""Seconds to read the remaining output after the program's end, if a process outside the group holds it open."""
MAX_LINE = 8192
TAIL_LINES, TAIL_LINE = 20, 400


class ProgramFailed(Exception):
    """A program ended with a nonzero exit code. The first line names the code; the last lines of stderr follow."""


class Reaper:
    """The daemon's end of the pipe to its reaper (koalemos_reaper.py), and the reaper process.

    `open_reaper` owns both.
    """

    def __init__(self, pipe: int, process: trio.Process) -> None:
        self.pipe = pipe
        self.process = process

    def tell(self, group: int, word: str) -> None:
        """Write one line to the reaper. Never blocks."""
        try:
            os.write(self.pipe, f"{group} {word}\n".encode())
        except (BrokenPipeError, BlockingIOError):  # it is dead or stuck, and programs must not run without it
            self.process.kill()  # `open_reaper` then ends the daemon


@asynccontextmanager
async def open_reaper() -> AsyncGenerator[Reaper]:
    """Run a reaper beside the body. If the reaper dies, cancel the body.

    Raises:
        ExceptionGroup: with the exception of the body, or with a RuntimeError if the reaper died.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        # In a session of its own, so that Ctrl-C in a terminal reaches only the daemon.
        command = [sys.executable, "-I", "-S", str(REAPER)]
        process = await trio.lowlevel.open_process(command, stdin=reading, start_new_session=True)
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, process)
            yield Reaper(writing, process)
            nursery.cancel_scope.cancel()
    finally:
        os.close(writing)
        with trio.CancelScope(shield=True):
            await process.wait()


async def _watch(process: trio.Process) -> None:
    raise RuntimeError(f"the reaper has ended, with code {await process.wait()}")


class Programs:
    """The handler: runs a task's argument list as a process.

    Args:
        reaper: kills the process if this daemon cannot.
        grace: seconds between SIGTERM and SIGKILL when the task must stop; cut short by the end of the lease.

    The consumer must not set a grace of its own, and must not limit `task.cleanup()` to less than the lease
    (`cleanup_timeout=math.inf`).
    """

    def __init__(self, reaper: Reaper, grace: float) -> None:
        self.reaper = reaper
        self.grace = grace

    async def __call__(self, task: RunningTask) -> None:
        """Run the program to its end; if cancelled, stop the program. On return its process group has ended.

        Raises:
            ProgramFailed: the exit code was not 0.
            ValueError: the properties have no argument list.
        """
        process = await self._start(task)
        stderr = deque[str](maxlen=TAIL_LINES)
        # Both keep running while the program is being stopped: it may still write, and must not outlive the lease.
        logging_output, renewing = trio.CancelScope(shield=True), trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_log_output, logging_output, process, task, stderr)
            nursery.start_soon(self._renew, renewing, process, task)
            try:
                await process.wait()
            finally:
                await self._stop(process, task)
                renewing.cancel()
                self.reaper.tell(process.pid, "gone")
                logging_output.deadline = trio.current_time() + LAST_OUTPUT
        assert process.returncode is not None
        end = _describe(process.returncode)
        logger.info("%s: %s", task.id, end)
        if process.returncode != 0:
            raise ProgramFailed("\n".join([end, *stderr]))

    async def _start(self, task: RunningTask) -> trio.Process:
        """Start the program. Once it has started, return it even if cancelled."""
        arguments = _arguments(task)
        process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", LAUNCH, "koalemosd", _lease_end(task), *arguments],
            stdin=self.reaper.pipe,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "KOALEMOS_TASK": task.id, "KOALEMOS_TOKEN": str(task.token)},
        )
        logger.info("%s: process %d runs %s", task.id, process.pid, arguments)
        return process

    async def _renew(self, scope: trio.CancelScope, process: trio.Process, task: RunningTask) -> None:
        """Regularly send the end of the lease to the reaper. The launcher has sent the first one."""
        with scope:
            while True:
                await trio.sleep(RENEW_EVERY)
                self.reaper.tell(process.pid, _lease_end(task))

    async def _stop(self, process: trio.Process, task: RunningTask) -> None:
        """Send SIGTERM to a program that still runs, wait up to the grace, then send SIGKILL to its whole group."""
        if process.returncode is None:
            logger.info("%s: stopping process %d (%s)", task.id, process.pid, task.stop_reason)
            _signal_group(process.pid, signal.SIGTERM)
            with task.cleanup() as cleanup:
                cleanup.deadline = min(cleanup.deadline - KILL_BEFORE_END, trio.current_time() + self.grace)
                await process.wait()
        # The number still means this group, or no group: Linux does not reuse it while the group exists, and otherwise
        # only after all other numbers.
        _signal_group(process.pid, signal.SIGKILL)
        # No time limit: while the kernel cannot kill the process, the task still runs and must keep its claim.
        with trio.CancelScope(shield=True):
            await process.wait()


def _arguments(task: RunningTask) -> list[str]:
    arguments = task.props.get("args")
    if isinstance(arguments, list) and all(isinstance(argument, str) for argument in arguments) and any(arguments[:1]):
        return arguments
    raise ValueError(f'task {task.id!r}: "args" must be a list of strings, program first, not {arguments!r}')


def _lease_end(task: RunningTask) -> str:
    """Return the end of the task's lease in the reaper's format: seconds of CLOCK_BOOTTIME."""
    remaining = task.lease.end - trio.current_time()
    return f"{time.clock_gettime(time.CLOCK_BOOTTIME) + remaining:.3f}"


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # the whole group has ended
        pass


def _describe(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    return f"exit code {128 - returncode} ({signal.strsignal(-returncode)})"


async def _log_output(scope: trio.CancelScope, process: trio.Process, task: RunningTask, stderr: deque[str]) -> None:
    def out(line: str) -> None:
        logger.info("%s | %s", task.id, line)

    def err(line: str) -> None:
        logger.warning("%s | %s", task.id, line)
        stderr.append(line[:TAIL_LINE])

    assert process.stdout is not None
    assert process.stderr is not None
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_copy_lines, process.stdout, out)
            nursery.start_soon(_copy_lines, process.stderr, err)


async def _copy_lines(stream: trio.abc.ReceiveStream, write: Callable[[str], None]) -> None:
    rest = b""
    try:
        async with stream:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    write(line.decode(errors="replace"))
    finally:
        if rest:
            write(rest.decode(errors="replace"))


async def serve(coordinator: Coordinator, *, name: str | None, grace: float, drain_timeout: float) -> bool:
    """Run a node until it has drained: after a SIGTERM or SIGINT, or by command.

    Returns:
        False if a second signal cut the drain short.

    Raises:
        ExceptionGroup: with `CoordinatorUnavailable`, or with a RuntimeError if the reaper died.
    """
    async with open_reaper() as reaper, trio.open_nursery() as nursery:
        consumer = Consumer(
            coordinator,
            Programs(reaper, grace),
            name=name,
            cleanup_timeout=math.inf,  # the handler limits its own grace, and stops before the lease ends
            drain_timeout=drain_timeout,
            on_overrun="log",  # enough, because the reaper kills the programs if the daemon cannot
        )
        nursery.start_soon(_drain_on_signal, consumer, nursery.cancel_scope)
        await consumer.run()
        nursery.cancel_scope.cancel()
        return True
    return False


async def _drain_on_signal(consumer: Consumer, everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if consumer.statistics().draining:
                everything.cancel(reason=f"a second {signal.Signals(number).name}")
                return
            logger.info("draining; a second signal stops at once")
            consumer.start_draining()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ValueError
    return seconds


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="koalemosd",
        description="A node that runs programs, each on one node at a time.",
        epilog="Exit codes: 0 drained, 1 failed or stopped at once, 2 usage, 5 unreachable.",
        allow_abbrev=False,
    )
    url = os.environ.get("METAFORA_URL")
    parser.add_argument("--url", default=url, help="zk://host:port,host:port/namespace (or METAFORA_URL)")
    parser.add_argument("--name", help="the node's name (default: host and process id)")
    parser.add_argument("--grace", type=_seconds, default=5.0, help="seconds from SIGTERM to SIGKILL (default 5)")
    parser.add_argument("--drain-timeout", type=_seconds, default=30.0, help="seconds a drain may take (default 30)")
    options = parser.parse_args()
    if not options.url:
        parser.error("--url or METAFORA_URL is needed")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    from metafora_trio_zookeeper import from_url  # imported late: everything else can be tested without kazoo

    try:
        coordinator = from_url(options.url)
    except ValueError as error:
        parser.error(str(error))
    code = 1
    try:
        drained = trio.run(
            partial(serve, coordinator, name=options.name, grace=options.grace, drain_timeout=options.drain_timeout)
        )
        code = 0 if drained else 1
    except* InvalidName as group:
        code = _complain(group, 2)
    except* CoordinatorUnavailable as group:
        code = _complain(group, 5)
    return code


def _complain(error: BaseException, code: int) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
