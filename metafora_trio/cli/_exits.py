"""The exit codes of the command, and the code that each error becomes."""

from __future__ import annotations

import enum

import click

__all__ = ["ExitCode", "Failure", "explain"]


class ExitCode(enum.IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    """It did not work, a check found a problem, or a task that was waited for has failed."""
    USAGE = 2
    """The command line is wrong, or an extra is not installed."""
    NOT_FOUND = 3
    REFUSED = 4
    """The task exists already or has ended, or the cluster was made for another version or other settings. Trying again
    does not help."""
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
    """Turn an error into a message and an exit code. Returns None for an unforeseen one: it deserves its traceback."""
    # Import here, once there is an error: `--help` must not wait for the core.
    import trio

    from metafora_trio import (
        BrokerTooOld,
        CoordinatorUnavailable,
        InvalidName,
        InvalidTask,
        LayoutMismatch,
        MetaforaError,
        NamespaceNotFound,
        NodeNotFound,
        TaskExists,
        TaskFinished,
        TaskNotFound,
    )
    from metafora_trio.contract import InvalidRecord

    kinds: list[tuple[type[Exception], ExitCode, str]] = [
        (InvalidTask, ExitCode.USAGE, ""),
        (InvalidName, ExitCode.USAGE, ""),
        (InvalidRecord, ExitCode.USAGE, ""),
        (TaskNotFound, ExitCode.NOT_FOUND, "`metafora ls --finished` lists what there is"),
        (NodeNotFound, ExitCode.NOT_FOUND, "`metafora nodes` lists the live ones"),
        (TaskFinished, ExitCode.REFUSED, "--again runs it once more"),
        (TaskExists, ExitCode.REFUSED, "`metafora describe` shows it"),
        (NamespaceNotFound, ExitCode.NOT_FOUND, "is --url right? the first `metafora submit` or `run` creates it"),
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
