"""Shell: runs the command `metafora` in this process, on a cluster in memory and on virtual time."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Consumer, Coordinator, CoordinatorUnavailable, MemoryCoordinator, NodeInfo, RunningTask
from metafora_trio._service_nursery import open_service_nursery
from metafora_trio.cli._app import App
from metafora_trio.cli._main import main
from metafora_trio.contract import BrokerClient

__all__ = ["Cluster", "Shell", "handler"]


async def handler(task: RunningTask) -> None:
    """Fail, or sleep for some seconds, as the properties say; by default sleep forever."""
    if task.props.get("fail"):
        raise ValueError("as requested")
    await trio.sleep(task.props.get("seconds", float("inf")))


class Cluster(Coordinator):
    """A cluster in memory whose nodes run only while a client is open, because each command of a test is a `trio.run`.

    Attributes:
        memory: the coordinator of the cluster, which lasts for the whole test.
        consumers: factories of the nodes that start, and settle, before each client opens; empty at first.
        nodes: the nodes of the last client.
        answers: the number of further requests of a client that are answered.
        silence: called 10 s after each request that is not answered.
    """

    def __init__(self) -> None:
        self.memory = MemoryCoordinator()
        self.consumers: Sequence[Callable[[], Consumer]] = ()
        self.nodes: list[Consumer] = []
        self.answers = float("inf")
        self.silence: Callable[[], object] = _outage

    def add_nodes(self, *names: str, **options: Any) -> None:
        """Add nodes with these names to the cluster that each client finds."""
        self.consumers = [
            *self.consumers,
            *(lambda name=name: Consumer(self.memory, handler, name=name, **options) for name in names),
        ]

    def open_session(self, node: NodeInfo) -> Any:
        return self.memory.open_session(node)

    @asynccontextmanager
    async def open_client(self) -> AsyncGenerator[BrokerClient]:
        async with open_service_nursery() as nursery:
            self.nodes = [make() for make in self.consumers]
            for node in self.nodes:
                await nursery.start(lambda task_status, node=node: node.run(task_status=task_status))
            await trio.sleep(10)
            async with self.memory.open_client() as client:
                travel = client._round_trip

                @asynccontextmanager
                async def travel_while_answered() -> AsyncGenerator[None]:
                    self.answers -= 1
                    if self.answers < 0:
                        await trio.sleep(10)
                        self.silence()
                    async with travel():
                        yield

                vars(client)["_round_trip"] = travel_while_answered
                yield client
                await trio.sleep(1)  # until sent requests have arrived


def _outage() -> None:
    raise CoordinatorUnavailable("no answer within 10 s")


class Shell:
    """Runs commands, and keeps their output."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = Cluster()
        self.out = ""
        self.err = ""
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        monkeypatch.delenv("METAFORA_URL", raising=False)

    def __call__(self, *arguments: str, stdin: str = "", given: bool = True) -> int:
        """Run one command; return its exit code.

        Args:
            *arguments: the arguments of the command line.
            stdin: the text on its standard input.
            given: run it on `cluster`, whatever the URL.
        """
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        app = App(given=self.cluster if given else None, clock=MockClock(autojump_threshold=0))
        self._capsys.readouterr()
        code = main(arguments, app=app)
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def json(self) -> Any:
        """The output on stdout, parsed as JSON."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The lines of stdout, split at spaces, without the header."""
        return [line.split() for line in self.out.splitlines()[1:]]
