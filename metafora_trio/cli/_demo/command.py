"""The command `demo`, which shows a cluster at work and checks that it keeps its promises."""

from __future__ import annotations

import json
import secrets
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qsl, urlencode

import click
import trio

from metafora_trio import Client, NodesChanged, Task, open_client
from metafora_trio.cli._app import App
from metafora_trio.cli._exits import ExitCode
from metafora_trio.cli._output import print_table, say
from metafora_trio.contract import open_service_nursery
from metafora_trio.testing.history import EventName, Verdict, check_history

from .clusters import DemoCluster, open_memory_cluster, open_process_cluster
from .screen import Placement, Screen, running

_NODES = ("ant", "bee", "cat", "dog")
_TASKS = tuple(f"task-{number:02}" for number in range(1, 13))
_SESSION_TIMEOUT = 4.0
_LOOK = 0.1
"""Seconds between two looks at what runs."""
_CLEANUP_TIMEOUT = 5.0


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(min=5, max=600), default=15.0, show_default=True,
    help="For how long, about: the pace. With --url a crash takes the session timeout (4 s) to be noticed.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
@click.pass_obj
def demo(app: App, seconds: float, as_json: bool) -> int:
    """A cluster at work: three nodes and twelve tasks. A node crashes, one drains, one joins.

    Without --url all of it runs in this process, and no broker is needed. With --url each node is a process of its own,
    the crash is a SIGKILL, and all is done in a new namespace beside the one named, which is removed afterwards.

    The handlers write down when they start and stop. From that, a checker finds out whether a task was lost, or ran
    twice at once; then, or if the node that drains does not leave, the exit code is 1, and what happened is shown on
    stderr.

    \b
    Examples:
      metafora demo
      metafora demo --url zk://127.0.0.1:2181 --seconds 20
      metafora demo --json | tail -1
    """
    as_json = as_json or app.json
    screen = Screen(_NODES, _TASKS, err=as_json)
    in_processes = app.url is not None and not app.url.startswith("memory:")
    if in_processes:
        app.coordinator()  # so that a wrong URL is told here, and not by a node
    stopped: list[int] = []

    async def main() -> int:
        code: int = ExitCode.DONE
        with trio.CancelScope() as scope:
            async with open_service_nursery() as nursery:
                await nursery.start(_cancel_on_signal, scope, stopped)
                async with _open_cluster(app.url if in_processes else None) as cluster:
                    async with open_client(cluster.coordinator) as client:
                        code = await _Demo(cluster, client, screen, seconds, in_processes=in_processes).run(as_json)
        return code

    code = app.run(main)
    return 128 + stopped[0] if stopped else code


def _open_cluster(url: str | None) -> AbstractAsyncContextManager[DemoCluster]:
    if url is None:
        return open_memory_cluster()
    # By hand: urlsplit refuses a list of hosts with an IPv6 address in it.
    address, _, query = url.partition("?")
    scheme, _, place = address.partition("://")
    hosts, _, namespace = place.partition("/")
    options = {"session_timeout": f"{_SESSION_TIMEOUT:g}", **dict(parse_qsl(query))}
    # Beside the namespace, not below it: nothing is left there, not even a parent.
    own_namespace = f"{namespace.rstrip('/') or 'metafora'}-demo-{secrets.token_hex(4)}"
    own = f"{scheme}://{hosts}/{own_namespace}?{urlencode(options)}"
    return open_process_cluster(own, session_timeout=float(options["session_timeout"]))


async def _cancel_on_signal(
    scope: trio.CancelScope, stopped: list[int], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if not stopped:
                say("interrupted: stopping every node, and cleaning up")
            stopped.append(number)
            scope.cancel()


class _Demo:
    """The play itself."""

    def __init__(
        self, cluster: DemoCluster, client: Client, screen: Screen, seconds: float, *, in_processes: bool
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._screen = screen
        self._seconds = seconds
        self._in_processes = in_processes
        self._began = cluster.now()
        self._shown: Placement = {}
        self._fates: dict[str, str] = {}
        self._stuck: list[str] = []

    @property
    def _elapsed(self) -> float:
        return (self._cluster.now() - self._began) / 1e9

    async def run(self, as_json: bool) -> int:
        """Play, and print the summary. Returns the exit code."""
        ant, bee, cat, dog = _NODES
        where = "each in a process of its own" if self._in_processes else "in this process (no broker is needed)"
        self._screen.print(f"A cluster of three nodes, {where}, and twelve tasks that run for ever.")
        self._screen.print("Below, each row is a moment and each column a task: who runs it?")
        await self._start(ant, bee, cat)
        await self._pause_until(0.25)
        await self._crash(bee, [ant, cat])
        await self._pause_until(0.55)
        await self._drain(cat, [ant])
        await self._pause_until(0.70)
        await self._join(dog, [ant, dog])
        await self._pause_until(1.0)
        self._cluster.history.record(EventName.END)
        seconds = self._elapsed
        verdict = check_history(self._cluster.events())
        self._summarize(verdict, seconds, as_json)
        ok = self._tell_what_went_wrong(verdict)
        await self._clean_up()
        return ExitCode.DONE if ok else ExitCode.FAILED

    # ---- the acts

    async def _start(self, *nodes: str) -> None:
        tasks = [Task(id) for id in _TASKS]
        await self._client.submit(tasks)
        for task in tasks:
            self._cluster.history.record(EventName.SUBMIT, task=task.id)
        names = ", ".join(map(self._screen.node, nodes))
        self._act("START", f"{names} join. A node waits 1.5 s for others before it takes tasks.")
        self._screen.header()
        self._look()
        async with trio.open_nursery() as nursery:
            for name in nodes:
                self._fates[name] = "ran to the end"
                nursery.start_soon(self._cluster.start_node, name)
        await self._until_even(nodes)

    async def _crash(self, name: str, left: Sequence[str]) -> None:
        self._act("CRASH", f"{self._screen.node(name)} dies without a word ({self._cluster.how_crashed}).")
        if self._in_processes:
            self._screen.print("         Its tasks are the others' once its session has run out, and not before.")
        self._fates[name] = f"crashed at {self._elapsed:.1f} s"
        await self._cluster.crash_node(name)
        await self._until_even(left)

    async def _drain(self, name: str, left: Sequence[str]) -> None:
        self._act("DRAIN", f"{self._screen.node(name)} leaves: it runs each task until another node has asked for it.")
        told = self._elapsed
        await self._client.drain(name)
        await self._until_even(left)
        with trio.move_on_after(self._cluster.patience):
            async with self._client.watch() as changes:
                async for change in changes:
                    if isinstance(change, NodesChanged) and name not in {s.node.name for s in change.nodes}:
                        self._fates[name] = f"drained at {told:.1f} s"
                        return
        self._fates[name] = f"told to drain at {told:.1f} s, did not leave"
        self._stuck.append(name)

    async def _join(self, name: str, after: Sequence[str]) -> None:
        self._act("JOIN ", f"{self._screen.node(name)} is new: it asks for its share, and no task moves without need.")
        self._fates[name] = f"joined at {self._elapsed:.1f} s, ran to the end"
        await self._cluster.start_node(name)
        await self._until_even(after)

    # ---- between them

    def _act(self, title: str, text: str) -> None:
        self._screen.act(self._elapsed, title, text)

    async def _until_even(self, nodes: Sequence[str]) -> None:
        """Show what happens until every task runs, shared evenly by these nodes; or until patience ends."""
        began = self._elapsed
        with trio.move_on_after(self._cluster.patience) as scope:
            while True:
                if _is_even(self._look(), nodes):
                    break
                await trio.sleep(_LOOK)
        if scope.cancelled_caught:
            self._screen.print(f"         not yet shared evenly after {self._cluster.patience:g} s")
        else:
            shared = ", shared evenly," if len(nodes) > 1 else ""
            self._screen.done(f"all {len(_TASKS)} run{shared} after {self._elapsed - began:.1f} s")

    def _look(self) -> Placement:
        """Return what runs where, and show it if it is new."""
        placement = running(_TASKS, self._cluster.events())
        if placement != self._shown:
            self._screen.row(self._elapsed, placement)
            self._shown = placement
        return placement

    async def _pause_until(self, fraction: float) -> None:
        """Let the reader read."""
        await trio.sleep(max(_LOOK, fraction * self._seconds - self._elapsed))

    # ---- the end

    def _summarize(self, verdict: Verdict, seconds: float, as_json: bool) -> None:
        events = self._cluster.events()
        crashes = sum(event.ev is EventName.KILL for event in events)
        if as_json:
            click.echo(json.dumps(_summary(verdict, seconds, crashes, self._stuck)))
            return
        runs = Counter(event.process for event in events if event.ev is EventName.START)
        at_end = Counter(self._shown.values())
        self._screen.print()
        print_table(
            ["NODE", "TASKS STARTED", "AT THE END", "FATE"],
            [[name, runs[name], at_end[name], fate] for name, fate in self._fates.items()],
        )
        click.echo(
            f"\nIn {seconds:.1f} s, as the handlers themselves wrote it down:\n"
            f"moves: {verdict.runs - len(_TASKS)}\n"
            f"median gap: {_seconds(verdict.gap(0.5))} (for so long a task that moved ran nowhere)\n"
            f"longest gap: {_seconds(verdict.gap(1))}\n"
            f"tasks lost: {verdict.tasks_lost}\n"
            f"duplicate runs: {verdict.duplicate_runs}"
        )

    def _tell_what_went_wrong(self, verdict: Verdict) -> bool:
        """On stderr, with the whole history, and what the nodes said: nothing is left of their files. Returns whether
        all was well. An uneven share is none of it: that takes its time on a slow machine, and no promise is broken."""
        wrong = [f"{name} was told to drain, and has not left" for name in self._stuck]
        if not verdict.ok:
            wrong.append("a promise was broken")
        if wrong:
            say(f"error: {'; '.join(wrong)}; this is what happened:")
            for event in self._cluster.events():
                say(json.dumps(asdict(event)))
            for name, said in self._cluster.logs().items():
                say(f"node {name} said: {said or 'nothing'}")
        return not wrong

    async def _clean_up(self) -> None:
        """Delete the tasks while there are nodes to remove them."""
        await self._client.delete(*_TASKS)
        with trio.move_on_after(_CLEANUP_TIMEOUT):
            async with self._client.watch() as changes:
                async for _ in changes:
                    if not await self._client.tasks():
                        return


def _is_even(placement: Placement, nodes: Sequence[str]) -> bool:
    loads = Counter(placement.values())
    return loads.keys() == set(nodes) and max(loads.values()) - min(loads.values()) <= 1


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _summary(verdict: Verdict, seconds: float, crashes: int, stuck: Sequence[str]) -> dict[str, Any]:
    return {
        "ok": verdict.ok and not stuck,
        "tasks": len(_TASKS),
        "nodes": len(_NODES),
        "crashes": crashes,
        "runs": verdict.runs,
        "moves": verdict.runs - len(_TASKS),
        "tasks_lost": verdict.tasks_lost,
        "duplicate_runs": verdict.duplicate_runs,
        "stuck_in_drain": list(stuck),
        "longest_gap_seconds": round(verdict.gap(1), 3),
        "median_gap_seconds": round(verdict.gap(0.5), 3),
        "seconds": round(seconds, 1),
    }
