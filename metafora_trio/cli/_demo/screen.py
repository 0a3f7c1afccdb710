"""The rows that the demonstration shows: each row is a moment, and each column names the node that runs a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import click

from metafora_trio.testing.history import EventName, HistoryEvent

__all__ = ["Placement", "Screen", "running"]

Placement = Mapping[str, str | None]
"""The name of the node that runs each task, or None."""

_COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_NOBODY = "·"


def running(tasks: Iterable[str], events: Iterable[HistoryEvent]) -> Placement:
    """Find what ran where at the last of these events, as the handlers wrote it down."""
    owners: dict[str, list[str]] = {task: [] for task in tasks}
    for event in events:
        if event.ev is EventName.START:
            owners[event.task].append(event.process)
        elif event.ev is EventName.STOP:
            owners[event.task].remove(event.process)
        elif event.ev is EventName.KILL:
            for names in owners.values():
                names[:] = [name for name in names if name != event.process]
    return {task: "+".join(names) or None for task, names in owners.items()}


class Screen:
    """Prints rows.

    Args:
        nodes: all nodes there will be: each has its color.
        tasks: the columns.
        err: print on stderr, since stdout is for data.
    """

    def __init__(self, nodes: Sequence[str], tasks: Sequence[str], *, err: bool) -> None:
        self._colors = dict(zip(nodes, _COLORS, strict=False))
        self._tasks = tasks
        self._width = max(map(len, nodes))
        self._err = err
        self._last: Placement = {}

    def print(self, text: str = "") -> None:
        click.echo(text, err=self._err)

    def node(self, name: str) -> str:
        """Write a node's name in its color."""
        return click.style(name, fg=self._colors.get(name))

    def act(self, seconds: float, title: str, text: str) -> None:
        """Announce what is done to the cluster."""
        self.print(f"\n{seconds:5.1f} s  {click.style(title, bold=True)}  {text}")

    def done(self, text: str) -> None:
        """Report that the cluster is well again."""
        self.print(f"         {click.style('✓', fg='green')} {text}")

    def header(self) -> None:
        columns = " ".join(task.removeprefix("task-").rjust(self._width) for task in self._tasks)
        self.print(f"\n   {'task':>5} {columns}")

    def row(self, seconds: float, placement: Placement) -> None:
        """Print where each task runs now; changes are in bold."""
        cells = [self._cell(placement[task], new=self._last.get(task) != placement[task]) for task in self._tasks]
        self._last = placement
        loads = Counter(placement.values())
        waiting = loads.pop(None, 0)
        words = [f"{name} {loads[name]}" for name in sorted(filter(None, loads))]
        if waiting:
            words.append(f"{waiting} wait")
        self.print(f"{seconds:5.1f} s  {' '.join(cells)}  {', '.join(words)}")

    def _cell(self, name: str | None, *, new: bool) -> str:
        text = (name or _NOBODY).rjust(self._width)
        return click.style(text, fg=self._colors.get(name or ""), bold=new)
