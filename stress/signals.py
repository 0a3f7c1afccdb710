"""Ending a command by a signal."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from metafora_trio.contract import open_service_nursery

__all__ = ["until_signal"]


@asynccontextmanager
async def until_signal() -> AsyncGenerator[None]:
    """Run the body until it ends or SIGINT or SIGTERM comes. A signal cancels the body, and nothing is raised.

    The signals do not end the process meanwhile: otherwise the servers and nodes that it has started would stay, and
    no report would be written.
    """
    async with open_service_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_by_signal, scope)
            yield


async def _cancel_by_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
