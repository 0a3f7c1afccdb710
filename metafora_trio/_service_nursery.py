"""A nursery for what serves the body of an async context manager: body first, helpers after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_service_nursery"]


@asynccontextmanager
async def open_service_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery whose tasks serve the body, and are cancelled when the body has ended.

    Cancellation from outside reaches the body first, and the helpers only when the body has ended: while it cleans up
    they still serve it. A helper's exception cancels the body and the other helpers.

    What it raises: an exception of the body, or of one helper, leaves it as it is, never wrapped in a group. Where
    both raise, or several helpers, a group is raised.
    """
    try:
        async with trio.open_nursery() as outer:
            scope = trio.CancelScope(shield=True)
            try:
                helpers = await outer.start(_host, scope)
                yield helpers
            finally:  # also when `start` is cancelled after the host has begun: nobody else could end it
                scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        only = group.exceptions[0]
    else:
        return
    raise only


async def _host(scope: trio.CancelScope, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold the helpers' nursery in a scope that shields it from what cancels the body."""
    # Cancelled before it began, `start` would wait for ever for what is shielded from that.
    await trio.lowlevel.checkpoint_if_cancelled()
    with scope:
        try:
            async with trio.open_nursery() as helpers:
                task_status.started(helpers)
                await trio.sleep_forever()
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            only = group.exceptions[0]
        else:
            return  # a helper cancelled the nursery that they share
        raise only
