"""A nursery for what serves the body of an async context manager: body first, helpers after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_service_nursery"]


@asynccontextmanager
async def open_service_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery whose tasks serve the body, and are cancelled when the body has ended.

    What it raises: an exception of the body, or of one helper, leaves it as it is, never wrapped in a group; a
    helper's exception cancels the body. Where both raise, or several helpers, the group is raised.
    """
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        only = group.exceptions[0]
    else:
        return
    raise only
