"""until_signal: ends a command on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from metafora_trio.contract import open_service_nursery

__all__ = ["until_signal"]


@asynccontextmanager
async def until_signal() -> AsyncGenerator[None]:
    """Run the body until it ends, or until SIGINT or SIGTERM arrives. A signal cancels the body; nothing is raised.

    While the body runs, these signals do not end the process. Otherwise its servers and nodes would keep running, and
    it would write no report.
    """
    async with open_service_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_by_signal, scope)
            yield


async def _cancel_by_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
