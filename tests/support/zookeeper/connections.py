"""Helpers for the tests of the connection."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import trio

from metafora_trio.contract import RepeatedEvent
from metafora_trio_zookeeper._connection import ConnectionState, ErrorCode, EventType, Reply, RequestError
from metafora_trio_zookeeper._kazoo.connection import KazooConnection

CONNECTED, DISCONNECTED = ConnectionState.CONNECTED, ConnectionState.DISCONNECTED
EXPIRED, CLOSED = ConnectionState.EXPIRED, ConnectionState.CLOSED
PATIENCE = 20.0


class Recorder:
    """A sink that records states and events in order; tests add the results of callbacks with `add`."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self._added = RepeatedEvent()

    def on_state(self, state: ConnectionState) -> None:
        self.add(state)

    def on_event(self, event: EventType, path: str) -> None:
        self.add((event, path))

    def add(self, entry: Any) -> None:
        self.log.append(entry)
        self._added.set()

    async def wait(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._added.wait()


@contextlib.asynccontextmanager
async def connect(
    hosts: str, *, session_timeout: float = 3.0, **options: Any
) -> AsyncGenerator[tuple[KazooConnection, Recorder]]:
    connection = KazooConnection(hosts, session_timeout=session_timeout, **options)
    recorder = Recorder()
    try:
        await connection.open(recorder)
        await recorder.wait(lambda: connection.state is CONNECTED)
        yield connection, recorder
    finally:
        await connection.aclose()


async def ask(request: Callable[..., None], *arguments: Any) -> Any:
    """Send one request and return the reply's value."""
    answers: list[Reply | RequestError] = []
    came = trio.Event()

    def done(answer: Reply | RequestError) -> None:
        answers.append(answer)
        came.set()

    request(*arguments, done)
    assert answers == [], "the callback ran inside the call"
    with trio.fail_after(PATIENCE):
        await came.wait()
    (answer,) = answers
    if isinstance(answer, RequestError):
        raise answer
    return answer.value


async def refused(request: Callable[..., None], *arguments: Any) -> tuple[ErrorCode, int | None]:
    with pytest.raises(RequestError) as caught:
        await ask(request, *arguments)
    return caught.value.code, caught.value.index
