"""A node of a benchmark: `python -m stress.bench.node`, a process whose handlers sleep and write a history.

It reads commands from its standard input, one word a line, and answers on its standard output, one JSON object a line:

    (at once)  {"loaded": true}
    join       {"joined": <the session's identity>}
    report     {"claims": .., "bids": .., "first_claim": ..}    the requests sent so far, see `Sent`
    drain      {"drained": true}, when it has handed its tasks over and left the cluster

When its input ends, it ends at once, so that no node outlives its benchmark.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

import trio

from metafora_trio import Consumer, RunningTask
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Done, WriteOp
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from stress.history_writer import HistoryWriter


@dataclass(slots=True)
class Sent:
    """The claims and bids that this process has sent to ZooKeeper.

    Attributes:
        claims: the number of claims sent.
        bids: the number of bids sent.
        first_claim: the time of the first claim, in nanoseconds of CLOCK_MONOTONIC; 0 if there was none.
    """

    claims: int = 0
    bids: int = 0
    first_claim: int = 0

    def count(self, ops: Sequence[WriteOp]) -> None:
        """Count the claims and bids that a transaction creates."""
        for op in ops:
            if isinstance(op, Create) and op.ephemeral and op.sequential:
                if op.path.endswith("~c~"):
                    self.first_claim = self.first_claim or time.monotonic_ns()
                    self.claims += 1
                else:
                    self.bids += 1


class CountingConnection(KazooConnection):
    """Counts the claims and bids that a session passes to kazoo, including any that are retried or refused."""

    def __init__(self, hosts: str, *, session_timeout: float, sent: Sent) -> None:
        super().__init__(hosts, session_timeout=session_timeout)
        self._sent = sent

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self._sent.count(ops)
        super().transact(ops, done)


async def _commands() -> AsyncGenerator[str]:
    """Yield the words on the standard input until its end."""
    rest = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while part := await stream.receive_some():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line.decode()


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


async def _serve(hosts: str, name: str, path: str, session_timeout: float) -> None:
    sent = Sent()
    coordinator = ZooKeeperCoordinator(
        hosts,
        session_timeout=session_timeout,
        connect=lambda: CountingConnection(hosts, session_timeout=session_timeout, sent=sent),
    )
    history = HistoryWriter(path, name)

    async def handler(task: RunningTask) -> None:
        history.write("start", task)
        try:
            await trio.sleep_forever()
        finally:
            history.write("stop", task)

    consumer = Consumer(coordinator, handler, name=name)
    _answer({"loaded": True})
    async with trio.open_nursery() as nursery, aclosing(_commands()) as commands:
        async for command in commands:
            match command:
                case "join":
                    await nursery.start(lambda task_status: consumer.run(task_status=task_status))
                    _answer({"joined": consumer.statistics().node})
                case "report":
                    _answer(asdict(sent))
                case "drain":
                    await consumer.drain()
                    _answer({"drained": True})
                case _:
                    raise ValueError(f"unknown command {command!r}")
        nursery.cancel_scope.cancel()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stress.bench.node", description=__doc__)
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--history", required=True)
    parser.add_argument("--session-timeout", type=float, required=True)
    asked = parser.parse_args()
    logging.basicConfig(format=f"{asked.name}: %(levelname)s %(name)s: %(message)s")
    trio.run(_serve, asked.hosts, asked.name, asked.history, asked.session_timeout)


if __name__ == "__main__":
    _main()
