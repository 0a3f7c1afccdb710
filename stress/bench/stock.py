"""Stock kazoo: baselines for the benchmarks, and a watch that sees when a znode is deleted. Sync functions block."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import trio
from kazoo.client import KazooClient

__all__ = ["Witness", "creates_per_second", "round_trip_ms"]

_BUCKETS = 64
_TIMEOUT = 60.0


@contextmanager
def _client(hosts: str) -> Generator[Any]:
    client = KazooClient(hosts)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


def creates_per_second(hosts: str, count: int) -> float:
    """Return the rate at which `count` ephemeral sequential znodes are created.

    Each create is a request of its own, and all are in flight at once. They go to as many directories as claims do.
    """
    with _client(hosts) as client:
        folders = [f"/baseline/{bucket:02}" for bucket in range(_BUCKETS)]
        for folder in folders:
            client.ensure_path(folder)
        started = time.monotonic()
        replies = [
            client.create_async(f"{folders[n % _BUCKETS]}/task-{n}~", ephemeral=True, sequence=True)
            for n in range(count)
        ]
        for reply in replies:
            reply.get(timeout=_TIMEOUT)
        return count / (time.monotonic() - started)


def round_trip_ms(hosts: str, count: int = 200) -> float:
    """Return the time of one write when no other is in flight, in milliseconds: the median of `count` writes."""
    with _client(hosts) as client:
        client.ensure_path("/baseline/round-trip")
        times = []
        for _ in range(count):
            started = time.monotonic()
            client.set("/baseline/round-trip", b"")
            times.append(time.monotonic() - started)
        return statistics.median(times) * 1e3


class Witness:
    """Records when a znode is deleted, by a watch of its own. An async context manager that sets the watch on entry."""

    def __init__(self, hosts: str, path: str) -> None:
        self._client = KazooClient(hosts)
        self._path = path
        self._gone_at = 0
        self._gone = threading.Event()

    async def __aenter__(self) -> Witness:
        await trio.to_thread.run_sync(self._start)
        return self

    async def __aexit__(self, *error: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._stop)

    def _start(self) -> None:
        self._client.start()
        if self._client.exists(self._path, watch=self._changed) is None:
            raise LookupError(f"no znode {self._path}")

    def _stop(self) -> None:
        self._client.stop()
        self._client.close()

    def _changed(self, event: Any) -> None:
        self._gone_at = time.monotonic_ns()
        self._gone.set()

    async def gone(self) -> int:
        """Wait until the znode is deleted. Return the time of that, in nanoseconds of CLOCK_MONOTONIC.

        Raises:
            TimeoutError: it still exists after a minute.
        """
        if not await trio.to_thread.run_sync(self._gone.wait, _TIMEOUT):
            raise TimeoutError(f"{self._path} still exists after {_TIMEOUT:g} s")
        return self._gone_at
