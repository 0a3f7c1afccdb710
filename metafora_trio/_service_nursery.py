"""A nursery for background helpers of an async context manager's body. The body ends first, then the helpers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import trio

__all__ = ["open_service_nursery", "unwrap_errors"]


@contextmanager
def unwrap_errors() -> Generator[None]:
    """Raise the only exception of a group that the body raises as it is. A group of several is raised as a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        only = group.exceptions[0]
    else:
        return
    raise only


@asynccontextmanager
async def open_service_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery whose tasks serve the body and are cancelled once the body has ended.

    Cancellation from outside reaches the body first. It reaches the helpers only when the body has ended, so they
    still serve the body while it cleans up. A helper's exception cancels the body and the other helpers.

    An exception from the body alone, or from one helper alone, propagates as it is, never wrapped in a group. If the
    body and a helper raise, or several helpers do, a group is raised.
    """
    with unwrap_errors():
        async with trio.open_nursery() as outer:
            scope = trio.CancelScope(shield=True)
            try:
                helpers = await outer.start(_host, scope)
                yield helpers
            finally:  # also if `start` is cancelled after the host has started: nothing else would end the host
                scope.cancel()


async def _host(scope: trio.CancelScope, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Run the helpers' nursery in a scope that shields it from the body's cancellation."""
    # Raise if already cancelled. Otherwise `start` would wait forever for a shielded host.
    await trio.lowlevel.checkpoint_if_cancelled()
    with scope, unwrap_errors():  # returns if a helper cancelled the helpers' own nursery
        async with trio.open_nursery() as helpers:
            task_status.started(helpers)
            await trio.sleep_forever()
