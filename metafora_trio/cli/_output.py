"""Print data on stdout, as aligned columns or JSON, and messages on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from metafora_trio import NodeStatus, TaskStatus

__all__ = [
    "Progress",
    "ago",
    "count",
    "node_record",
    "print_json",
    "print_table",
    "say",
    "saying_what_is_created",
    "some",
    "task_record",
]


def say(text: str) -> None:
    """Print a message for people."""
    click.echo(text, err=True)


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "event"):  # a node's, if one runs in this process
            say(record.getMessage())


@contextmanager
def saying_what_is_created() -> Generator[None]:
    """Print what the library logs while the body runs, such as that a coordinator has created its namespace."""
    logger, handler = logging.getLogger("metafora_trio"), _StderrHandler()
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False  # otherwise `-v` would print it twice
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def count(number: int, thing: str) -> str:
    """Count things in words: `1 task`, `2 tasks`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """List the first few names and say how many more there are."""
    return ", ".join([*names[:5], *([f"and {len(names) - 5:,} more"] if len(names) > 5 else [])])


def ago(seconds: float) -> str:
    """Write a duration in two units at most: `2h14m`, `31s`."""
    whole = max(0, round(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return "".join(f"{number}{unit}" for number, unit in parts[first : first + 2] if number) or "0s"


def print_json(**fields: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps({"schema": "metafora/v1", **fields}, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns as wide as their content, with numbers aligned on the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[n], int) for row in rows) for n in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if of_numbers else cell.ljust(width)
            for cell, width, of_numbers in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (header, *cells)
    ]
    click.echo("\n".join(lines))


def task_record(status: TaskStatus) -> dict[str, Any]:
    """Describe a task for JSON, with properties and errors if they are known."""
    record: dict[str, Any] = {
        "task": status.id,
        "state": str(status.state),
        "node": status.owner,
        "token": status.token,
        "queue": [{"node": claim.node, "kind": claim.kind.name.lower(), "token": claim.seq} for claim in status.queue],
    }
    if status.props is not None:
        record["props"] = dict(status.props)
    if status.problem:
        record["problem"] = status.problem
    if (state := status.stored_state) is not None:
        if state.node is not None:
            started, ended = (time and time.isoformat() for time in (state.started, state.ended))
            record["end"] = {"node": state.node, "token": state.token, "started": started, "ended": ended}
        record["errors"] = [
            {
                "timestamp": error.timestamp.isoformat(),
                "type": error.type,
                "error": error.error,
                "traceback": error.traceback,
            }
            for error in status.errors
        ]
    return record


def node_record(status: NodeStatus) -> dict[str, Any]:
    """Describe a node for JSON."""
    node = status.node
    return {
        "node": node.identity,
        "name": node.name,
        "since": node.since,
        "tasks": status.owned,
        "bids": status.bids,
        "capacity": node.capacity,
        "tags": sorted(node.tags),
        "draining": node.draining,
        "frozen": node.frozen,
        "full": node.full,
        "notices": list(node.notices),
    }


class Progress:
    """Report progress on stderr about once a second. Quick work reports nothing.

    Args:
        what: what is being done, in the past tense: "submitted".
        total: how much there is to do.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._told = time.monotonic()
        self._shown = False

    def tell(self, done: int) -> None:
        """Report that `done` parts of the work are done by now."""
        if time.monotonic() - self._told >= 1.0:
            self._told = time.monotonic()
            self._shown = sys.stderr.isatty()
            click.echo(f"{self._what} {done:,} of {self._total:,}\r", nl=not self._shown, err=True)

    def end(self) -> None:
        """Clear the line for the next message."""
        if self._shown:
            click.echo(" " * 60 + "\r", nl=False, err=True)
