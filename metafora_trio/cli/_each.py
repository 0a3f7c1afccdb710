"""Doing the same to several things: one that fails does not keep the others from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click
import trio

from metafora_trio import CoordinatorUnavailable, MetaforaError

from ._exits import explain
from ._output import Progress

__all__ = ["for_each"]

_AT_ONCE = 32


async def for_each(names: Sequence[str], done: str, action: Callable[[str], Awaitable[None]]) -> tuple[list[str], int]:
    """Call `action` with each name, several at once. Errors are reported one by one, in the order of the names.

    Args:
        names: tasks or nodes; of those given twice one counts.
        done: what is being done, in the past tense, for the report of progress.
        action: what to do with one.

    Returns:
        The names with which it worked, in order, and the exit code: that of the first error.

    Raises:
        CoordinatorUnavailable: from the first action that raises it; then nothing more is begun.
    """
    names = list(dict.fromkeys(names))
    errors: dict[str, MetaforaError] = {}
    unavailable: list[CoordinatorUnavailable] = []
    progress = Progress(done, len(names))
    waiting = iter(names)
    finished = 0

    async def work(scope: trio.CancelScope) -> None:
        nonlocal finished
        for name in waiting:
            try:
                await action(name)
            except CoordinatorUnavailable as error:
                unavailable.append(error)
                scope.cancel()
                return
            except MetaforaError as error:
                errors[name] = error
            finished += 1
            progress.tell(finished)

    async with trio.open_nursery() as nursery:
        for _ in range(min(_AT_ONCE, len(names))):
            nursery.start_soon(work, nursery.cancel_scope)
    if unavailable:
        raise unavailable[0]
    progress.end()
    code = 0
    hints: dict[str, None] = {}
    for name in names:
        if name in errors:
            failure = explain(errors[name])
            assert failure is not None  # every MetaforaError is explained
            click.echo(f"error: {failure.format_message()}", err=True)
            hints[failure.hint] = None
            code = code or failure.code
    for hint in filter(None, hints):
        click.echo(f"hint: {hint}", err=True)
    return [name for name in names if name not in errors], code
