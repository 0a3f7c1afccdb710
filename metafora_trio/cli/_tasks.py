"""The commands on tasks: submit, ls, describe, wait, retry, rm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from metafora_trio import Client, CoordinatorUnavailable, NodeNotFound, Task, TaskStatus, TaskStatusName
from metafora_trio.contract import node_name

from ._app import App
from ._each import for_each
from ._exits import ExitCode, Failure
from ._output import Progress, count, print_json, print_table, say, saying_what_is_created, some, task_record

_BATCH, _BATCH_BYTES = 64, 500_000
"""Tasks to submit at once, and bytes of properties: one transaction of ZooKeeper, so that all have arrived or none."""
_LISTED = [name for name in TaskStatusName if name is not TaskStatusName.DELETED]


# ---- submit


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--props", metavar="JSON|@FILE", help="The properties, a JSON object; @- is stdin.  [default: {}]")
@click.option("--again", is_flag=True, help="Also run ids once more that have ended.")
@click.pass_obj
def submit(app: App, ids: Sequence[str], props: str | None, again: bool) -> int:
    """Submit tasks, all with the same properties.

    The ID `-` means JSON lines on stdin, {"id": ..., "props": {...}} each. The ids of what was submitted are printed.
    The first submit creates the namespace, and says so.

    \b
    Examples:
      metafora submit report-7 --props '{"url": "https://example.org/7"}'
      metafora submit a b c --props @props.json
      generate-tasks | metafora submit -
      metafora submit report-7 --again
    """
    if "-" in ids and (len(ids) > 1 or props is not None):
        raise click.UsageError(
            "'-' stands alone: each line of stdin has its own id and props", click.get_current_context()
        )
    tasks = list(_from_lines(sys.stdin)) if "-" in ids else _alike(ids, props or "{}")

    async def main(client: Client) -> None:
        progress = Progress("submitted", len(tasks))
        done = 0
        batch: Sequence[Task] = ()
        try:
            for batch in _batches(tasks):
                await client.submit(batch, again=again)
                done += len(batch)
                progress.tell(done)
        except CoordinatorUnavailable:
            say(f"not submitted, or nobody knows: {some([task.id for task in batch])}")
            raise
        finally:
            progress.end()
            if app.json:
                print_json(submitted=[task.id for task in tasks[:done]])
            elif done:
                click.echo("\n".join(task.id for task in tasks[:done]))
            if done == len(tasks):
                say(f"submitted {count(done, 'task')}")
            elif done:
                say(f"submitted the first {count(done, 'task')} of {len(tasks):,}")

    with saying_what_is_created():
        app.with_client(main)
    return ExitCode.DONE


def _batches(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    first = size = 0
    for place, task in enumerate(tasks):
        if place > first and (place - first == _BATCH or size + len(task.encoded) > _BATCH_BYTES):
            yield tasks[first:place]
            first, size = place, 0
        size += len(task.encoded)
    if tasks:
        yield tasks[first:]


def _alike(ids: Sequence[str], text: str) -> list[Task]:
    props = _props(text)
    return [Task(id, props) for id in ids]


def _props(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        try:
            with click.open_file(text[1:], encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise click.BadParameter(f"cannot read it: {error}", param_hint="--props") from error
    try:
        props = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}", param_hint="--props") from error
    if not isinstance(props, dict):
        raise click.BadParameter(f"it is {type(props).__name__}, not a JSON object", param_hint="--props")
    return props


def _from_lines(lines: Iterator[str]) -> Iterator[Task]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "id" not in record or record.keys() - {"id", "props"}:
                raise ValueError('expected {"id": ..., "props": {...}}')
            task = Task(record["id"], record.get("props", {}))
        except ValueError as error:  # InvalidTask is one, too
            raise Failure(f"line {number} of stdin: {error}", ExitCode.USAGE) from error
        yield task


# ---- ls, describe


@click.command()
@click.option("--finished", is_flag=True, help="Also those that have ended.")
@click.option(
    "--state",
    type=click.Choice([name.value for name in _LISTED]),
    help="Only those in this state; one of an end means --finished, too.",
)
@click.option("--node", help="Only those of this node, by name or identity.")
@click.pass_obj
def ls(app: App, finished: bool, state: str | None, node: str | None) -> int:
    """List tasks: their state, the node that owns each, its fencing token, and the nodes that have asked for it.

    \b
    Examples:
      metafora ls
      metafora ls --node ant --state running
      metafora ls --state failed
      metafora ls --finished -o json
    """

    finished = finished or (state is not None and TaskStatusName(state).ended)

    async def main(client: Client) -> list[TaskStatus]:
        statuses = await client.tasks(finished=finished)
        if node is None:
            return statuses
        # Claims may outlive the node for a while, so it need not be alive.
        owned = [status for status in statuses if status.owner and node in (status.owner, node_name(status.owner))]
        if not owned and not any(node in (it.node.identity, it.node.name) for it in await client.nodes()):
            raise NodeNotFound(f"no live node {node!r}")
        return owned

    statuses = [status for status in app.with_client(main) if state in (None, status.state)]
    if app.json:
        print_json(tasks=[task_record(status) for status in statuses])
        return ExitCode.DONE
    header = ["TASK", "STATE", "NODE", "TOKEN", "ASKED BY"]
    rows = [
        [
            status.id,
            status.state,
            node_name(status.owner) if status.owner else "-",
            "-" if status.token is None else status.token,
            " ".join(node_name(claim.node) for claim in status.queue[1:]),
        ]
        for status in statuses
    ]
    if finished:
        header.append("ERROR")
        for row, status in zip(rows, statuses, strict=True):
            row.append(_error_line(status))
    print_table(header, rows)
    return ExitCode.DONE


def _error_line(status: TaskStatus) -> str:
    return status.problem or (" ".join(status.errors[-1].error.split())[:100] if status.errors else "")


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def describe(app: App, ids: Sequence[str]) -> int:
    """Show all that is known of tasks: state, queue of claims, properties, and the traceback of what failed.

    \b
    Examples:
      metafora describe report-7
      metafora describe report-7 -o json
    """
    found: dict[str, TaskStatus] = {}

    async def main(client: Client) -> int:
        async def look_up(id: str) -> None:
            found[id] = await client.get(id)

        shown: list[str] = []
        try:
            return await for_each(ids, "read", look_up, shown)
        finally:
            if app.json:
                print_json(tasks=[task_record(found[id]) for id in shown])
            else:
                click.echo("\n\n".join("\n".join(_description(found[id])) for id in shown), nl=bool(shown))

    return app.with_client(main)


def _description(status: TaskStatus) -> Iterator[str]:
    yield f"task    {status.id}"
    yield f"state   {status.state}"
    for place, claim in enumerate(status.queue):
        yield f"{'asked by' if place else 'node   '} {claim.node}  token {claim.seq}"
    if (end := status.stored_state) is not None and end.node is not None:
        yield f"node    {end.node}  token {end.token}"
        for name, time in (("started", end.started), ("ended  ", end.ended)):
            if time is not None:
                yield f"{name} {time.isoformat(timespec='milliseconds')}"
    if status.props is not None:
        yield f"props   {json.dumps(dict(status.props), ensure_ascii=False)}"
    if status.problem:
        yield f"problem {status.problem}"
    for error in status.errors:
        yield f"error   {error.timestamp.isoformat(timespec='milliseconds')}  {error.error}"
        yield from (f"        {line}" for line in error.traceback.splitlines())


# ---- wait, retry, rm


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer, and exit with 6.")
@click.pass_obj
def wait(app: App, ids: Sequence[str], timeout: float | None) -> int:
    """Wait until tasks have ended (by default all that are in the cluster now), and show how.

    The exit code is 0 if all have completed or were deleted, 1 if one has failed or was killed, or if it cannot be read
    how it ended.

    \b
    Examples:
      metafora wait report-7 --timeout 60
      metafora wait && echo all done
    """

    ended: dict[str, TaskStatus] = {}

    async def main(client: Client) -> None:
        try:
            await client.wait(list(ids) or None, timeout=timeout, ended=ended)
        finally:
            statuses = [ended[id] for id in sorted(ended)]
            if app.json:
                print_json(tasks=[task_record(status) for status in statuses])
            elif statuses:
                print_table(["TASK", "STATE", "ERROR"], [[s.id, s.state, _error_line(s)] for s in statuses])

    app.with_client(main)
    well = (TaskStatusName.COMPLETED, TaskStatusName.DELETED)
    return ExitCode.DONE if all(status.state in well for status in ended.values()) else ExitCode.FAILED


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def retry(app: App, ids: Sequence[str]) -> int:
    """Run tasks again that have ended, each with the properties it had. How they ended is forgotten.

    The ids of what was submitted again are printed. `metafora submit --again` runs a task again with new properties.

    \b
    Examples:
      metafora retry report-7
      metafora ls --state failed -o json | jq -r '.tasks[].task' | xargs metafora retry
    """

    async def main(client: Client) -> int:
        retried: list[str] = []
        try:
            return await for_each(ids, "retried", client.retry, retried)
        finally:
            if app.json:
                print_json(retried=retried)
            elif retried:
                click.echo("\n".join(retried))

    return app.with_client(main)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask, as is done on a terminal.")
@click.pass_obj
def rm(app: App, ids: Sequence[str], yes: bool) -> int:
    """Delete tasks. A running one is stopped, then it is gone; of one that has ended the state is forgotten.

    The ids of what was deleted are printed; `metafora ls` shows `deleting` while one is still being stopped.

    \b
    Examples:
      metafora rm report-7
      metafora rm a b c --yes
    """
    if not yes and sys.stdin.isatty():
        question = f"Delete {ids[0] if len(ids) == 1 else count(len(ids), 'task')}, and stop what runs?"
        if not click.confirm(question, err=True):
            raise Failure("nothing was deleted")

    async def main(client: Client) -> int:
        deleted: list[str] = []
        try:
            return await for_each(ids, "deleted", client.delete, deleted)
        finally:
            if app.json:
                print_json(deleted=deleted)
            elif deleted:
                click.echo("\n".join(deleted))

    return app.with_client(main)
