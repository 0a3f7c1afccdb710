"""Exit codes, and which error becomes which."""

from __future__ import annotations

import enum

import click

__all__ = ["ExitCode", "Failure", "explain"]


class ExitCode(enum.IntEnum):
    """What the shell is told."""

    DONE = 0
    FAILED = 1
    """It did not work, a check found a problem, or a task that was waited for has failed."""
    USAGE = 2
    """The command line is wrong, or an extra is not installed."""
    NOT_FOUND = 3
    REFUSED = 4
    """It exists already, or has ended; or the cluster is not one for this version and these settings: trying again does
    not help."""
    UNREACHABLE = 5
    TIMED_OUT = 6
    INTERRUPTED = 130
    TERMINATED = 143


class Failure(click.ClickException):
    """Ends a command with a message and an exit code.

    Args:
        message: what is wrong, in one line.
        code: the exit code.
        hint: what one can do about it.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def explain(error: Exception) -> Failure | None:
    """What the shell is told of an error; None for one that nobody has foreseen: it deserves its traceback."""
    # Imported where an error is at hand: `--help` must not wait for the core.
    import trio

    from metafora_trio import (
        BrokerTooOld,
        CoordinatorUnavailable,
        InvalidName,
        InvalidTask,
        LayoutMismatch,
        MetaforaError,
        NodeNotFound,
        TaskExists,
        TaskFinished,
        TaskNotFound,
    )

    kinds: list[tuple[type[Exception], ExitCode, str]] = [
        (InvalidTask, ExitCode.USAGE, ""),
        (InvalidName, ExitCode.USAGE, ""),
        (TaskNotFound, ExitCode.NOT_FOUND, "`metafora ls --finished` lists what there is"),
        (NodeNotFound, ExitCode.NOT_FOUND, "`metafora nodes` lists the live ones"),
        (TaskFinished, ExitCode.REFUSED, "--again runs it once more"),
        (TaskExists, ExitCode.REFUSED, "`metafora describe` shows it"),
        (LayoutMismatch, ExitCode.REFUSED, "is it the right namespace, and the right version of metafora-trio?"),
        (BrokerTooOld, ExitCode.REFUSED, ""),
        (CoordinatorUnavailable, ExitCode.UNREACHABLE, "is --url right, and does a quorum of the servers run?"),
        (MetaforaError, ExitCode.FAILED, ""),
        (trio.TooSlowError, ExitCode.TIMED_OUT, ""),
    ]
    for kind, code, hint in kinds:
        if isinstance(error, kind):
            return Failure(str(error), code, hint)
    return None
