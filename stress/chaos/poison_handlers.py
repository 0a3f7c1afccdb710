"""The handlers of the tasks that are poison. The property `poison` of a task names its handler."""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from metafora_trio import RunningTask

from .evidence import POISON
from .faults import FaultKind
from .records import FaultRecord, append_record

__all__ = ["IGNORES_CANCELLATION", "PoisonName", "run_poison"]

_PAUSE = 3.0
"""Seconds between two blocks of the event loop."""


class PoisonName(enum.StrEnum):
    """The handlers. The ids of their tasks begin with `POISON` and this name."""

    RETURNS = "returns"
    EXITS = "exits"
    GROUP = "group"
    RAISES = "raises"
    STUBBORN = "stubborn"
    BRIEF = "brief"
    BLOCKS = "blocks"


IGNORES_CANCELLATION = f"{POISON}{PoisonName.STUBBORN}-"
"""The beginning of the ids of the tasks that may run beyond the end of their lease."""


class _Odd(BaseException):
    """An exception that only `except BaseException` catches."""


async def run_poison(
    task: RunningTask,
    *,
    process: str,
    session_timeout: float,
    folder: Path,
    work: Callable[[RunningTask], Awaitable[None]],
    ignore_lease: Callable[[RunningTask, float], Awaitable[None]],
) -> None:
    """Run the handler of a task that is poison.

    Args:
        task: the task.
        process: the name of this process in the history.
        session_timeout: T, in seconds.
        folder: the folder of the run; a long block is recorded there as a fault of this node.
        work: does what an ordinary task does.
        ignore_lease: does it for some seconds longer than the lease allows.
    """
    match task.props["poison"]:
        case PoisonName.RETURNS:
            await trio.lowlevel.checkpoint()
        case PoisonName.EXITS:
            sys.exit(3)
        case PoisonName.GROUP:
            raise BaseExceptionGroup("several", [_Odd("odd"), SystemExit(4), GeneratorExit()])
        case PoisonName.RAISES:
            raise _Odd("odd")
        case PoisonName.STUBBORN:
            await ignore_lease(task, session_timeout)
        case PoisonName.BRIEF:
            await _block(task, 0.15 * session_timeout, work, None)
        case PoisonName.BLOCKS:
            await _block(task, 1.5 * session_timeout, work, (folder, process))
        case unknown:
            raise ValueError(f"no such poison: {unknown!r}")


async def _block(
    task: RunningTask,
    seconds: float,
    work: Callable[[RunningTask], Awaitable[None]],
    recorded: tuple[Path, str] | None,
) -> None:
    """Work, and block the event loop again and again. A block that is recorded is so before it begins."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, task)
        while True:
            await trio.sleep(_PAUSE)
            if recorded is not None:
                folder, process = recorded
                now = time.monotonic_ns()
                node = process.rpartition(".")[0]
                record = FaultRecord(FaultKind.BLOCKED, node, now, now + round(seconds * 1e9), note=task.id)
                append_record(folder, record)
            time.sleep(seconds)  # noqa: ASYNC251 - this poison blocks the event loop
