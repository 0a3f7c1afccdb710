"""The reaper of koalemosd: it kills registered groups at the end of the pipe or of the lease, and nothing else."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import ignores, wait_until

REAPER = Path(__file__).parents[2] / "examples" / "koalemos_reaper.py"
SOON = 10.0

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start_group() -> Generator[Start]:
    """Start process groups of two processes that ignore SIGTERM."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        script = "trap '' TERM; sleep 60 & wait"
        started.append(subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


@contextmanager
def reaping() -> Generator[subprocess.Popen[bytes]]:
    """Run a reaper; its `stdin` is the daemon's end of the pipe."""
    command = [sys.executable, "-I", "-S", str(REAPER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(reaper: subprocess.Popen[bytes], group: subprocess.Popen[bytes], word: object) -> None:
    assert reaper.stdin is not None
    reaper.stdin.write(f"{group.pid} {word}\n".encode())


def until_read(reaper: subprocess.Popen[bytes]) -> None:
    """Wait until the reaper ignores signals, and has read everything that was sent to it."""
    assert reaper.stdin is not None
    pipe, waiting = reaper.stdin, array.array("i", [0])

    def ready() -> bool:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        return ignores(reaper.pid, signal.SIGTERM) and not waiting[0]

    wait_until(ready)


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_end_of_pipe_kills_every_group(start_group: Start) -> None:
    """When the daemon dies, its groups are killed, even if all its processes, the reaper included, get a signal."""
    one, two, ended = start_group(), start_group(), start_group()
    with reaping() as reaper:
        tell(reaper, one, "inf")
        tell(reaper, two, boot_time() + 1000)
        tell(reaper, ended, "inf")
        tell(reaper, ended, "gone")
        until_read(reaper)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            reaper.send_signal(number)
        _, said = reaper.communicate(timeout=SOON)
    assert b"koalemosd has ended: killed 2 of its process groups\n" == said
    assert -signal.SIGKILL == one.wait(SOON) == two.wait(SOON)
    assert ended.poll() is None


def test_end_of_lease_kills_a_group(start_group: Start) -> None:
    """Groups whose lease a frozen daemon does not renew are killed when it ends; renewed groups keep running."""
    one, renewed = start_group(), start_group()
    with reaping() as reaper:
        end = boot_time() + 0.5
        for group in (one, renewed):
            tell(reaper, group, end)
        tell(reaper, renewed, end + 1000)
        assert one.wait(SOON) == -signal.SIGKILL
        assert 0 <= boot_time() - end < 1
        assert renewed.poll() is None


def test_a_late_renewal_is_too_late(start_group: Start) -> None:
    """If daemon and reaper were frozen together, the reaper checks the clock before it reads a renewal."""
    group = start_group()
    with reaping() as reaper:
        end = boot_time() + 0.5
        tell(reaper, group, end)
        until_read(reaper)
        reaper.send_signal(signal.SIGSTOP)
        wait_until(lambda: boot_time() > end)
        tell(reaper, group, "inf")
        reaper.send_signal(signal.SIGCONT)
        assert group.wait(SOON) == -signal.SIGKILL
