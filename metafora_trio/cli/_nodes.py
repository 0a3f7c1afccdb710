"""The commands on nodes: nodes, freeze, unfreeze, drain, balance."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import click
import trio

from metafora_trio import Client, NodeInfo, NodesChanged

from ._app import App
from ._each import for_each
from ._exits import ExitCode
from ._output import ago, count, node_record, print_json, print_table, say


@click.command()
@click.pass_obj
def nodes(app: App) -> int:
    """List the live nodes: how many tasks each owns and has asked for, and whether it takes part.

    A node's identity is its name and the mark of its session; commands take either.

    \b
    Examples:
      metafora nodes
      metafora nodes -o json
    """

    async def main(client: Client) -> None:
        statuses = await client.nodes()
        if app.json:
            print_json(nodes=[node_record(status) for status in statuses])
            return
        rows = [
            [
                status.node.name,
                _condition(status.node),
                status.owned,
                status.bids,
                "-" if status.node.capacity is None else status.node.capacity,
                ago(time.time() - status.node.since),
                " ".join(sorted(status.node.tags)) or "-",
                status.node.identity,
            ]
            for status in statuses
        ]
        print_table(["NODE", "STATE", "TASKS", "ASKS", "CAPACITY", "AGE", "TAGS", "IDENTITY"], rows)
        for status in statuses:
            for notice in status.node.notices:
                click.echo(f"! {status.node.identity}: {notice}")

    app.with_client(main)
    return ExitCode.DONE


def _condition(node: NodeInfo) -> str:
    marks = [mark for mark in ("draining", "frozen", "full") if getattr(node, mark)]
    return ",".join(marks) or "ready"


async def _tell(app: App, names: Sequence[str], verb: str, send: Callable[[str], Awaitable[None]]) -> int:
    """Send a command to nodes, and say which nodes got it. Returns the exit code."""
    told: list[str] = []
    try:
        return await for_each(names, "told", send, told)
    finally:
        if app.json:
            print_json(command=verb, nodes=told)
        say("\n".join(f"node {name} told to {verb}" for name in told) or "no node was told")


def _sending(verb: str, send: Callable[[Client, str], Awaitable[None]], help: str) -> click.Command:
    """Make the command `metafora VERB`, which sends something to the nodes named, or to all, and waits for nothing.

    Args:
        verb: the command's name, also in its messages and examples.
        send: sends to one node, by name or identity.
        help: what the nodes will do, in one paragraph.
    """

    @click.command(verb, help=f"{help}\n\n\b\nExamples:\n  metafora {verb} ant\n  metafora {verb} --all")
    @click.argument("names", metavar="[NODE...]", nargs=-1)
    @click.option("--all", "every", is_flag=True, help="Every live node.")
    @click.pass_obj
    def command(app: App, names: Sequence[str], every: bool) -> int:
        if bool(names) == every:
            raise click.UsageError("name nodes, or give --all", click.get_current_context())

        async def main(client: Client) -> int:
            whom = [status.node.identity for status in await client.nodes()] if every else names
            return await _tell(app, whom, verb, lambda name: send(client, name))

        return app.with_client(main)

    return command


freeze = _sending(
    "freeze",
    Client.freeze,
    "Freeze nodes: until `unfreeze` they run the tasks they have, claim nothing, bid for nothing, hand nothing over.",
)
unfreeze = _sending("unfreeze", Client.unfreeze, "End a freeze.")
balance = _sending(
    "balance",
    Client.balance,
    "Let nodes ask their balancers at once which tasks to release and which to bid for. They do so by themselves, too.",
)


@click.command()
@click.argument("names", metavar="NODE...", nargs=-1, required=True)
@click.option("--wait", "wait", is_flag=True, help="Return only when they have left.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="With --wait: exit with 6 after that.")
@click.pass_obj
def drain(app: App, names: Sequence[str], wait: bool, timeout: float | None) -> int:
    """Let nodes hand over all they have, and leave. Each task runs on until another node has asked for it.

    \b
    Examples:
      metafora drain ant
      metafora drain ant bee --wait --timeout 60
    """

    if timeout is not None and not wait:
        raise click.UsageError("--timeout is of use with --wait only", click.get_current_context())

    async def main(client: Client) -> int:
        leaving = {s.node.identity for s in await client.nodes() if {s.node.identity, s.node.name} & set(names)}
        code = await _tell(app, names, "drain", client.drain)
        if wait and leaving:
            await _wait_left(client, set(leaving), timeout)
            say(f"{count(len(leaving), 'node')} drained")
        return code

    return app.with_client(main)


async def _wait_left(client: Client, leaving: set[str], timeout: float | None) -> None:
    """Wait until no node of these identities is alive.

    Raises:
        trio.TooSlowError: after `timeout` seconds.
    """
    with trio.move_on_after(float("inf") if timeout is None else timeout):
        async with client.watch() as changes:
            async for change in changes:
                if isinstance(change, NodesChanged):
                    leaving &= {status.node.identity for status in change.nodes}
                    if not leaving:
                        return
    raise trio.TooSlowError(f"still here after {timeout:g} s: {', '.join(sorted(leaving))}")
