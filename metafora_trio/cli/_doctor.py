"""The command `doctor`, which looks for what is wrong with a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import click
import trio

from metafora_trio import Client, NodeStatus, TaskStatus, TaskStatusName, open_client
from metafora_trio.contract import Diagnosable, Finding, Level

from ._app import App
from ._exits import ExitCode
from ._output import count, print_json, some

_MARKS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.PROBLEM: ("✗", "red")}


@click.command()
@click.option(
    "--patience", type=click.FloatRange(min=0), default=6.0, show_default=True, metavar="SECONDS",
    help="For what should pass by itself, such as a task that nobody has claimed yet.",
)  # fmt: skip
@click.pass_obj
def doctor(app: App, patience: float) -> int:
    """Look for what is wrong: servers, session, clock, layout, nodes that take no part, tasks that nobody runs.

    It changes nothing. The exit code is 1 if there is a problem, 5 if it keeps clients out of the cluster, else 0:
    also if there are warnings.

    \b
    Examples:
      metafora doctor
      metafora doctor -o json --patience 0
    """
    findings: list[Finding] = []

    def tell(found: Iterable[Finding]) -> None:
        for finding in found:
            findings.append(finding)
            if not app.json:
                _print(finding)

    coordinator = app.coordinator()

    async def main() -> bool:
        if isinstance(coordinator, Diagnosable):
            diagnosis = await coordinator.diagnose()
            tell(diagnosis.findings)
            if not diagnosis.usable:
                return False
        async with open_client(coordinator) as client:
            tell(await examine(client, patience))
        return True

    usable = app.run(main)
    levels = [finding.level for finding in findings]
    if app.json:
        print_json(findings=[asdict(finding) for finding in findings], healthy=Level.PROBLEM not in levels)
    else:
        click.echo(f"{levels.count(Level.OK)} ok, {count(levels.count(Level.WARNING), 'warning')}, ", nl=False)
        click.echo(count(levels.count(Level.PROBLEM), "problem"))
    if Level.PROBLEM not in levels:
        return ExitCode.DONE
    return ExitCode.FAILED if usable else ExitCode.UNREACHABLE


def _print(finding: Finding) -> None:
    mark, color = _MARKS[finding.level]
    click.echo(f"{click.style(mark, fg=color)} {finding.text}")
    if finding.hint:
        click.echo(f"    hint: {finding.hint}")


async def examine(client: Client, patience: float) -> list[Finding]:
    """Find what a client can see, with any broker.

    Args:
        client: the cluster's client.
        patience: seconds for what should pass by itself; it is waited only if there is such a thing.
    """
    began = trio.current_time()
    nodes, tasks = await client.nodes(), await client.tasks()
    took = trio.current_time() - began
    suspects = {task.id: task for task in tasks if not _is_well(task, nodes)}
    if suspects and patience:
        await trio.sleep(patience)
        nodes, tasks = await client.nodes(), await client.tasks()
        # The same queue: one that has changed hands meanwhile is being looked after.
        suspects = {
            task.id: task
            for task in tasks
            if task.id in suspects and task.queue == suspects[task.id].queue and not _is_well(task, nodes)
        }
    return [
        *_counts(nodes, tasks, took),
        *_on_nodes(nodes, tasks),
        *_on_tasks(suspects.values(), nodes, patience),
    ]


def _is_well(task: TaskStatus, nodes: Sequence[NodeStatus]) -> bool:
    return task.state is not TaskStatusName.DELETING and task.owner in {status.node.identity for status in nodes}


def _counts(nodes: Sequence[NodeStatus], tasks: Sequence[TaskStatus], took: float) -> Iterator[Finding]:
    unclaimed = sum(task.state is TaskStatusName.UNCLAIMED for task in tasks)
    deleting = sum(task.state is TaskStatusName.DELETING for task in tasks)
    text = f"{count(len(nodes), 'node')}, {count(len(tasks), 'task')}: {len(tasks) - unclaimed - deleting:,} running"
    text += "".join(
        f", {number:,} {what}" for number, what in ((unclaimed, "unclaimed"), (deleting, "deleting")) if number
    )
    yield Finding(Level.OK, f"{text} (listed in {took * 1000:.0f} ms)")
    loads = [status.owned for status in nodes if not status.node.draining and not status.node.frozen]
    if len(loads) > 1:
        yield Finding(Level.OK, f"{min(loads):,} to {max(loads):,} tasks a node")


def _on_nodes(nodes: Sequence[NodeStatus], tasks: Sequence[TaskStatus]) -> Iterator[Finding]:
    takers = [status for status in nodes if not (status.node.draining or status.node.frozen or status.node.full)]
    if tasks and not nodes:
        yield Finding(Level.PROBLEM, "no node is alive: nothing runs", "start one: metafora run MODULE:HANDLER")
    elif nodes and not takers:
        yield Finding(
            Level.PROBLEM if any(task.state is TaskStatusName.UNCLAIMED for task in tasks) else Level.WARNING,
            "no node takes tasks: all are draining, frozen or full",
            "`metafora unfreeze --all`, or start another",
        )
    for status in nodes:
        if status.node.frozen:
            hint = f"metafora unfreeze {status.node.name}"
            yield Finding(
                Level.WARNING, f"node {status.node.identity} is frozen, with {count(status.owned, 'task')}", hint
            )
        for notice in status.node.notices:
            yield Finding(Level.WARNING, f"node {status.node.identity}: {notice}", "its log says more")
    names = [status.node.name for status in nodes]
    for name in sorted({name for name in names if names.count(name) > 1}):
        hint = "two of one name work, but are hard to tell apart: give each its own --name"
        yield Finding(Level.WARNING, f"{names.count(name)} nodes have the name {name}", hint)


def _on_tasks(suspects: Iterable[TaskStatus], nodes: Sequence[NodeStatus], patience: float) -> Iterator[Finding]:
    alive = {status.node.identity for status in nodes}
    unclaimed = [task.id for task in suspects if task.state is TaskStatusName.UNCLAIMED]
    tombs = [task.id for task in suspects if task.state is TaskStatusName.DELETING and task.owner is None]
    stopping = [task for task in suspects if task.state is TaskStatusName.DELETING and task.owner in alive]
    orphans = [task for task in suspects if task.owner is not None and task.owner not in alive]
    for_long = f"for more than {patience:g} s"
    if unclaimed and nodes:
        hint = "the balancers refuse it, or the nodes are full: add a node, or raise --capacity"
        yield Finding(Level.PROBLEM, f"unclaimed {for_long}: {some(unclaimed)}", hint)
    if tombs:
        hint = "a node removes what was deleted; one must be alive and not draining"
        yield Finding(Level.WARNING, f"deleted, but not removed {for_long}: {some(tombs)}", hint)
    for task in stopping:
        hint = "its handler does not stop when it is cancelled: it blocks, or shields itself"
        yield Finding(Level.PROBLEM, f"deleted, but still running {for_long}: {task.id} on {task.owner}", hint)
    for task in orphans:
        hint = "the broker has not ended the session of a node that is gone: it will, after the session timeout"
        yield Finding(Level.WARNING, f"claimed by a node that is not there: {task.id}, by {task.owner}", hint)
