"""What the tests of koalemos share: looking at process groups, and waiting with a bound."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable

import trio

SOON = 15.0
"""Seconds in which everything that is waited for must happen, on a busy machine."""


async def until(check: Callable[[], bool | Awaitable[bool]], timeout: float = SOON) -> None:
    """Wait until something is so: there is nothing to wait on for what other processes do."""
    with trio.fail_after(timeout):
        while True:
            result = check()
            if await result if inspect.isawaitable(result) else result:
                return
            await trio.sleep(0.01)


_EXITING = 0x4
"""The kernel's PF_EXITING: a killed process that has given up its memory and its files, and is not a zombie yet."""


def group_runs(group: int) -> bool:
    """Whether any process of a group still runs; one that is dead and waits for its parent does not."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, _, its_group, _, _, _, flags, *_ = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has gone since it was listed
            continue
        if int(its_group) == group and state not in "ZX" and not int(flags) & _EXITING:
            return True
    return False
