"""Stock kazoo: the baselines, and a witness of what ZooKeeper itself does. The plain functions block."""

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
    """How fast `count` ephemeral sequential znodes are created: a request each, all on their way at once, in as many
    directories as there are for claims."""
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
    """How long one write takes when nothing else is on its way: the median of `count`, in milliseconds."""
    with _client(hosts) as client:
        client.ensure_path("/baseline/round-trip")
        times = []
        for _ in range(count):
            started = time.monotonic()
            client.set("/baseline/round-trip", b"")
            times.append(time.monotonic() - started)
        return statistics.median(times) * 1e3


class Witness:
    """Sees when a znode goes, by a watch of its own.

    Async context manager: watches from its entry on.
    """

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
        """Wait until it has gone; returns when, in nanoseconds of CLOCK_MONOTONIC.

        Raises:
            TimeoutError: it has not gone within a minute.
        """
        if not await trio.to_thread.run_sync(self._gone.wait, _TIMEOUT):
            raise TimeoutError(f"{self._path} is still there after {_TIMEOUT:g} s")
        return self._gone_at
