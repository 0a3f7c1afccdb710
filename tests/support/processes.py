"""Helpers to start processes, signal them, and wait for their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and not waited for."""
    return [
        int(child) for thread in Path(f"/proc/{pid}/task").glob("*/children") for child in thread.read_text().split()
    ]


def run_until_signalled(
    arguments: Sequence[str], number: int, *, when: str, **environment: str
) -> tuple[int, list[int]]:
    """Run `python -m` with some arguments until a line of its stderr contains a text, then send it a signal.

    Args:
        arguments: a module and the arguments of its command line.
        number: the signal.
        when: the text to wait for.
        **environment: additional environment variables.

    Returns:
        Its exit status, and the processes that it had started before the signal.
    """
    command = [sys.executable, "-m", *arguments]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(when in line for line in process.stderr)
        started = children(process.pid)
        process.send_signal(number)
        process.communicate(timeout=30)
    return process.returncode, started


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. A zombie counts as ended, because nothing may reap it if its parent died."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


def ignores(pid: int, number: int) -> bool:
    """Return whether a process ignores a signal."""
    ignored = Path(f"/proc/{pid}/status").read_text().partition("SigIgn:")[2].split()[0]
    return bool(int(ignored, 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Wait for a condition on other processes or threads. Fail the test after `within` seconds. Blocks, even Trio."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not so within {within:g} s"
        time.sleep(0.005)  # poll, because other processes send no notification


def wait_ended(pids: Iterable[int]) -> None:
    """Wait until all these processes have ended. They need not be our children. Blocks."""
    for pid in pids:
        wait_until(partial(has_ended, pid))
