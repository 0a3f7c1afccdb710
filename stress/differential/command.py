"""The differential test: `python -m stress.differential [--ops N] [--seed S] [--json]`.

Random programs of several sessions run on `SimulatedZooKeeper` and, through the kazoo adapter, on a real server that is
started for the test. Replies, errors, stats, names of sequential znodes, states and events must be the same, in the
same order, in every session. Exit status: 0 if they were; 1 if they differed, or if something that should be compared
never happened; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import trio

from metafora_trio.testing.simulation import Process, World
from metafora_trio_zookeeper._connection import Connection, ConnectionState, Create, Reply, RequestError
from metafora_trio_zookeeper._kazoo import requests as requests
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from metafora_trio_zookeeper.testing.real import Ensemble
from metafora_trio_zookeeper.testing.simulated import SimulatedZooKeeper
from metafora_trio_zookeeper.testing.simulated._tree import Znode
from stress.arguments import at_least

from .programs import KINDS, SESSIONS, Action, Observer, Stat, Step, Trace, Zxid, compare, count, draw_step, ranked

__all__ = ["Model", "differ", "draw_program", "main", "run_model", "run_real"]

_STEPS = 60
_SESSION_TIMEOUT = 10.0
_PATIENCE = 30.0
_GET_STAT = 3
_STAT = struct.Struct("!qqqqiiiqiiq")


# ---- the simulated side


class Model:
    """Sessions on a simulated server. Use it as a context manager."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._world = World()
        self._zookeeper = SimulatedZooKeeper(self._world, servers=1, rng=random.Random(0))
        self._sessions: list[tuple[Process, Any, Observer, trio.Event]] = []
        self.owners: list[int] = []

    def __enter__(self) -> Self:
        self._sessions = [self._open() for _ in range(SESSIONS)]
        self.run(Step(0, (Action("transact", ((Create(self._root),),)),)))
        return self

    def __exit__(self, *_: object) -> None:
        self._world.close()

    @property
    def live(self) -> list[str]:
        """The paths of the znodes below the root."""
        return sorted(path for path in self._zookeeper.paths() if path.startswith(f"{self._root}/"))

    def run(self, step: Step) -> list[list[Any]]:
        """Run one step; return what each session has seen since the step before."""
        process, connection, observer, leave = self._sessions[step.session]
        for index, action in enumerate(step.actions):
            if action.name == "reopen":
                process.call(leave.set)
                self._until(lambda: process.ended)
                self._settle()
                self._sessions[step.session] = self._open(observer)
            elif action.name == "drop":
                number = connection.number
                process.call(connection.drop)
                self._until(lambda: connection.number > number)  # noqa: B023  # waited for at once
            else:
                process.call(getattr(connection, action.name), *action.arguments, partial(_on_reply, observer, index))
        self._settle()
        return [observer.take() for _, _, observer, _ in self._sessions]

    def _open(self, observer: Observer | None = None) -> tuple[Process, Any, Observer, trio.Event]:
        observer, leave, opened = observer or Observer(), trio.Event(), list[Connection]()

        async def live() -> None:
            connection = self._zookeeper.connect(_SESSION_TIMEOUT)
            opened.append(connection)
            await connection.open(observer)
            await leave.wait()
            await connection.aclose()

        process = self._world.spawn("session", live)
        self._until(lambda: opened and opened[0].state is ConnectionState.CONNECTED)
        self.owners.append(opened[0].session_id)
        return process, opened[0], observer, leave

    def _until(self, condition: Callable[[], object]) -> None:
        if not self._world.run_until(condition, within=_PATIENCE):
            raise TimeoutError("the model hangs")

    def _settle(self) -> None:
        self._world.run_for(0.01)


def _on_reply(observer: Observer, index: int, answer: Reply | RequestError) -> None:
    if isinstance(answer, Reply) and isinstance(answer.value, Znode):
        node = answer.value
        zxids = (Zxid(node.czxid), Zxid(node.mzxid), Zxid(node.pzxid))
        stat = Stat(*zxids, node.version, node.cversion, node.owner, len(node.children), len(node.data))
        answer = Reply(stat, answer.zxid)
    observer.on_reply(index, answer)


def run_model(program: Sequence[Step], root: str) -> Trace:
    """Run a program on the model, and return its trace."""
    with Model(root) as model:
        trace = [model.run(step) for step in program]
        return ranked(trace, model.owners)


def draw_program(rng: random.Random, root: str, steps: int = _STEPS) -> list[Step]:
    """Draw a program. Each step is drawn for the znodes that exist in the model at that point."""
    program = list[Step]()
    with Model(root) as model:
        for _ in range(steps):
            program.append(draw_step(rng, root, model.live))
            model.run(program[-1])
    return program


# ---- the real side


class _Session:
    """One session of the real side."""

    def __init__(self, hosts: str, observer: Observer) -> None:
        self.connection = KazooConnection(hosts, session_timeout=_SESSION_TIMEOUT)
        self.observer = observer
        self._hosts = hosts
        self._notified = trio.Event()
        observer.notify = self._notify

    async def open(self) -> Self:
        await self.connection.open(self.observer)
        await self.wait(lambda: self.connection.state is ConnectionState.CONNECTED)
        return self

    async def reopen(self) -> Self:
        await self.connection.aclose()
        return await type(self)(self._hosts, self.observer).open()

    async def wait(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(_PATIENCE):
            while not condition():
                await self._notified.wait()

    def send(self, index: int, action: Action) -> None:
        done = partial(self.observer.on_reply, index)
        if action.name == "stat":
            path, watch = action.arguments
            name = path.encode()
            body = struct.pack("!i", len(name)) + name + bytes([watch])
            self.connection._request(requests.Request(_GET_STAT, body, _decode_stat), done)
        else:
            getattr(self.connection, action.name)(*action.arguments, done)

    async def settle(self, root: str) -> None:
        """Wait for everything that the server has sent so far, because the answer to a read arrives after it."""
        came = trio.Event()
        self.connection.children(root, lambda _: came.set())
        with trio.fail_after(_PATIENCE):
            await came.wait()

    def _notify(self) -> None:
        self._notified.set()
        self._notified = trio.Event()


def _decode_stat(frame: bytes, at: int) -> Stat:
    czxid, mzxid, _, _, version, cversion, _, owner, length, children, pzxid = _STAT.unpack_from(frame, at)
    return Stat(Zxid(czxid), Zxid(mzxid), Zxid(pzxid), version, cversion, owner, children, length)


async def run_real(program: Sequence[Step], hosts: str, root: str) -> Trace:
    """Run a program on one real server, and return its trace. `root` must be new. Only one: reads must settle it."""
    sessions = [await _Session(hosts, Observer()).open() for _ in range(SESSIONS)]
    owners = [session.connection.session_id for session in sessions]
    trace: Trace = []
    try:
        for step in (Step(0, (Action("transact", ((Create(root),),)),)), *program):
            session = sessions[step.session]
            number = session.connection.number
            match step.actions[0].name:
                case "reopen":
                    session = sessions[step.session] = await session.reopen()
                    owners.append(session.connection.session_id)
                case "drop":
                    session.connection.drop()
                    connection = session.connection
                    await session.wait(lambda: connection.number > number)  # noqa: B023  # waited for at once
                case _:
                    for index, action in enumerate(step.actions):
                        session.send(index, action)
                    observer, wanted = session.observer, len(step.actions)
                    await session.wait(lambda: observer.replies >= wanted)  # noqa: B023  # waited for at once
            for each in sessions:
                await each.settle(root)
            trace.append([each.observer.take() for each in sessions])
    finally:
        for session in sessions:
            await session.connection.aclose()
    return ranked(trace[1:], owners)


# ---- both


def differ(program: Sequence[Step], hosts: str, root: str) -> tuple[str | None, Counter[str]]:
    """Run a program on both sides; return where they differ, if they do, and how often each kind happened."""
    real = trio.run(run_real, program, hosts, root)
    return compare(program, real, run_model(program, root)), count(program, real)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m stress.differential", description="Compare the simulated ZooKeeper with a real one."
    )
    parser.add_argument("--ops", type=at_least(1), default=20_000, help="the minimum number of requests (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same programs (%(default)s)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)  # the programs break connections on purpose
    rng, counts, ops, programs, difference = random.Random(options.seed), Counter[str](), 0, 0, None
    start = time.monotonic()
    try:
        with Ensemble(1) as ensemble:
            while ops < options.ops and difference is None:
                programs += 1
                root = f"/d{programs}"
                program = draw_program(rng, root)
                difference, happened = differ(program, ensemble.hosts, root)
                counts += happened
                ops += sum(len(step.actions) for step in program)
                if programs % 20 == 0:
                    print(f"{ops} requests in {programs} programs agree", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    missing = [kind for kind in KINDS if not counts[kind]]
    seconds = time.monotonic() - start
    if difference is not None:
        print(f"program {programs} of seed {options.seed} differs: {difference}", file=sys.stderr)
    print("\n".join(f"{number:7} {kind}" for kind, number in sorted(counts.items())), file=sys.stderr)
    if missing:
        print(f"never happened: {', '.join(missing)}", file=sys.stderr)
    events = sum(number for kind, number in counts.items() if kind.startswith("event ") and kind[6:].isupper())
    summary = {
        "ops": ops,
        "programs": programs,
        "events": events,
        "disagreements": int(difference is not None),
        "never_happened": missing,
        "seconds": round(seconds, 1),
        "seed": options.seed,
    }
    print(json.dumps(summary) if options.json else "\n".join(f"{key}: {value}" for key, value in summary.items()))
    return int(difference is not None or bool(missing))
