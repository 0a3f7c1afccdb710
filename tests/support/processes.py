"""Processes that tests start, and what becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process has started and that it has not waited for."""
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
        **environment: further variables of its environment.

    Returns:
        Its exit status, and the processes that it had started by then.
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
    """Whether a process has ended. One whose parent died may stay as a zombie where nothing reaps it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


def ignores(pid: int, number: int) -> bool:
    """Whether a process has set out to ignore a signal."""
    ignored = Path(f"/proc/{pid}/status").read_text().partition("SigIgn:")[2].split()[0]
    return bool(int(ignored, 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Wait for what happens in other processes or threads; fails the test after `within` seconds. Blocks, Trio too."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not so within {within:g} s"
        time.sleep(0.005)  # what another process or its children do is told to nobody here: one has to look


def wait_ended(pids: Iterable[int]) -> None:
    """Wait until none of these processes runs any more; they need not be our children. Blocks."""
    for pid in pids:
        wait_until(partial(has_ended, pid))
