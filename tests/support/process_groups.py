"""Helpers of the koalemos tests: inspecting process groups, and waiting with a time limit."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable

import trio

SOON = 15.0
"""Seconds to wait for a condition before failing; enough on a busy machine."""


async def until(check: Callable[[], bool | Awaitable[bool]], timeout: float = SOON) -> None:
    """Poll until a check returns true, because other processes send no notification."""
    with trio.fail_after(timeout):
        while True:
            result = check()
            if await result if inspect.isawaitable(result) else result:
                return
            await trio.sleep(0.01)


_EXITING = 0x4
"""The kernel's PF_EXITING: set for a killed process that is ending and is not a zombie yet."""


def group_runs(group: int) -> bool:
    """Return whether any process of a group still runs. Zombies do not count."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, _, its_group, _, _, _, flags, *_ = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended after it was listed
            continue
        if int(its_group) == group and state not in "ZX" and not int(flags) & _EXITING:
            return True
    return False
