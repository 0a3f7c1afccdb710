"""The command `run`, which runs a node."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import click
import trio

from metafora_trio import Consumer, Handler, events
from metafora_trio.balancers import FairBalancer, GreedyBalancer
from metafora_trio.contract import open_service_nursery
from metafora_trio.events import Event

from ._app import App
from ._exits import ExitCode, Failure
from ._output import count, say

_BALANCERS = {"fair": FairBalancer, "greedy": GreedyBalancer}


@click.command()
@click.argument("handler", metavar="MODULE:HANDLER")
@click.option("--name", help="The node's name, for people.  [default: host and process id]")
@click.option("--capacity", type=click.IntRange(min=0), metavar="N", help="The most tasks to hold at once.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A label for balancers; may be repeated.")
@click.option("--balancer", type=click.Choice(list(_BALANCERS)), default="fair", show_default=True)
@click.option(
    "--grace", type=click.FloatRange(min=0), default=0.0, show_default=True, metavar="SECONDS",
    help="For a task to wind down before it is cancelled.",
)  # fmt: skip
@click.option(
    "--drain-timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
    help="For others to take over what runs here, when the node leaves.",
)  # fmt: skip
@click.option(
    "--on-overrun", type=click.Choice(["log", "exit"]), default="exit", show_default=True,
    help="What to do when a task does not stop in time: end the process (status 70), or only report it.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Do not tell what the node does, only what goes wrong.")
@click.pass_obj
def run(
    app: App,
    handler: str,
    name: str | None,
    capacity: int | None,
    tags: Sequence[str],
    balancer: Literal["fair", "greedy"],
    grace: float,
    drain_timeout: float,
    on_overrun: Literal["log", "exit"],
    quiet: bool,
) -> int:
    """Run a node: join the cluster, and execute its share of the tasks with an async function of yours.

    SIGTERM or SIGINT (Ctrl-C) let it drain and exit with 0; a second one stops it at once. So does `metafora drain`.
    The current folder is importable.

    \b
    Examples:
      metafora run my_package.tasks:handler
      metafora run tasks:handler --name ant --capacity 100 --grace 5
      metafora run tasks:handler --url zk://127.0.0.1:2181/metafora -q
    """
    consumer = Consumer(
        app.coordinator(),
        _import(handler),
        name=name,
        capacity=capacity,
        tags=tags,
        balancer=_BALANCERS[balancer](),
        grace=grace,
        drain_timeout=drain_timeout,
        on_overrun=on_overrun,
    )

    async def main() -> int:
        return await _run_until_signals(consumer)

    with _telling(app.verbose, quiet):
        return app.run(main)


async def _run_until_signals(consumer: Consumer) -> int:
    """Run the node until it has drained, by a signal or by a command; returns the exit code."""
    code: int = ExitCode.DONE

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal code
        draining = False
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if draining:
                    say("stopping at once")
                    code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
                    stop.cancel()
                    return
                draining = True
                say(f"draining {count(len(consumer.tasks), 'task')}; once more to stop at once")
                consumer.start_draining()

    with trio.CancelScope() as stop:
        async with open_service_nursery() as nursery:
            await nursery.start(listen)
            await consumer.run()
    return code


def _import(place: str) -> Handler:
    """Import the handler that `MODULE:HANDLER` names.

    Raises:
        Failure: there is none.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise Failure(f"{place!r} is not MODULE:HANDLER, such as my_package.tasks:handler", ExitCode.USAGE)
    sys.path.insert(0, os.getcwd())  # as `python -m` does: a console script has its own folder there instead
    try:
        handler: object = importlib.import_module(module_name)
        for name in attribute.split("."):
            handler = getattr(handler, name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise Failure(f"cannot import {place!r}: {error}", ExitCode.USAGE) from error
    if not callable(handler):
        raise Failure(f"{place!r} is {type(handler).__name__}, not an async function", ExitCode.USAGE)
    return cast("Handler", handler)


class _InWords(logging.Formatter):
    """Write the consumer's log records as sentences."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        event = getattr(record, "event", None)
        if isinstance(event, Event) and (words := _words(event)):
            return f"{self.formatTime(record, '%H:%M:%S')} {level}{words}"
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{super().format(record)}"


def _has_words(record: logging.LogRecord) -> bool:
    event = getattr(record, "event", None)
    return record.levelno > logging.DEBUG or not isinstance(event, Event) or bool(_words(event))


@contextmanager
def _telling(verbose: int, quiet: bool) -> Generator[None]:
    """Report on stderr what the node does, in one line each: tasks at the level DEBUG, sessions at INFO."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_InWords())
    if not verbose:
        handler.addFilter(_has_words)
    logger, root = logging.getLogger("metafora_trio"), logging.getLogger()
    before = logger.level, logger.propagate, root.level
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    root.setLevel(
        min(root.level, logging.WARNING)
    )  # a node lives long enough for the warnings of its backend to matter
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        root.setLevel(before[2])


def _words(event: Event) -> str:
    match event:
        case events.SessionOpened(node, timeout):
            return f"joined as {node}" + (f", session timeout {timeout:g} s" if timeout < float("inf") else "")
        case events.SessionEnded(node, reason):
            return f"{node} has left" + (f": {reason}" if reason else "")
        case events.TaskStarted(_, task, token):
            return f"task {task} started (token {token})"
        case events.TaskStopping(_, task, _, reason, heir):
            return f"task {task} is stopping: {reason}" + (f" to {heir}" if heir else "")
        case events.TaskStopped(_, task, _, reason):
            return f"task {task} stopped" + (f" ({reason})" if reason else "")
        case events.TaskEnded(_, task, _, state, error):
            return f"task {task} {state}" + (f": {error}" if error else "")
        case events.CommandDone(_, command):
            return f"obeyed: {command}"
        case _:
            return ""
