"""Processes that tests start, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process has started and that it has not waited for."""
    return [
        int(child) for thread in Path(f"/proc/{pid}/task").glob("*/children") for child in thread.read_text().split()
    ]


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
