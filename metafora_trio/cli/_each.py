"""Apply one action to several names; a failure does not stop the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from metafora_trio import CoordinatorUnavailable, MetaforaError

from ._exits import explain
from ._output import Progress, say, some

__all__ = ["for_each"]

_AT_ONCE = 32


async def for_each(names: Sequence[str], verb: str, action: Callable[[str], Awaitable[None]], done: list[str]) -> int:
    """Call `action` with each name, several at once. Errors are reported one by one, in the order of the names.

    Args:
        names: tasks or nodes; a name given twice counts once.
        verb: the action in the past tense, for the reports.
        action: called with each name.
        done: gets the names for which the action worked, in order, even if this ends by Ctrl-C.

    Returns:
        The exit code: that of the first error.

    Raises:
        CoordinatorUnavailable: the first action to raise it ends the others, and no further one begins.
    """
    names = list(dict.fromkeys(names))
    worked: set[str] = set()
    errors: dict[str, MetaforaError] = {}
    unavailable: list[CoordinatorUnavailable] = []
    progress = Progress(verb, len(names))
    waiting = iter(names)

    async def work(scope: trio.CancelScope) -> None:
        for name in waiting:
            try:
                await action(name)
            except CoordinatorUnavailable as error:
                unavailable.append(error)
                scope.cancel()
                return
            except MetaforaError as error:
                errors[name] = error
            else:
                worked.add(name)
            progress.tell(len(worked) + len(errors))

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(min(_AT_ONCE, len(names))):
                nursery.start_soon(work, nursery.cancel_scope)
    finally:
        progress.end()
        done += [name for name in names if name in worked]
        code = _report([errors[name] for name in names if name in errors])
        if left := [name for name in names if name not in worked and name not in errors]:
            say(f"not {verb}, or nobody knows: {some(left)}")
    if unavailable:
        raise unavailable[0]
    return code


def _report(errors: Sequence[MetaforaError]) -> int:
    """Print errors, and each hint once. Returns the exit code of the first error."""
    code = 0
    hints: dict[str, None] = {}
    for error in errors:
        failure = explain(error)
        assert failure is not None  # every MetaforaError is explained
        say(f"error: {failure.format_message()}")
        hints[failure.hint] = None
        code = code or failure.code
    for hint in filter(None, hints):
        say(f"hint: {hint}")
    return code
