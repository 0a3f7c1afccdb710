"""StuckRuns: the runs of a node's earlier sessions whose scopes have not closed."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator

import trio

from .notices import Notices
from .task_run import TaskRun

__all__ = ["StuckRuns", "stack_of"]

_MAX_STACK = 4 * 1024
"""The number of characters of a stack that are kept, from its end."""


class StuckRuns:
    """Remembers runs until their scopes have closed. Meanwhile this node must not take their tasks.

    A handler that blocks its cancellation cannot be stopped. Its claim, if the session still exists, is not given up
    before its scope has closed. But if the session has expired, the task is free, and another node may run it. This one
    must not, in whichever session, because the old run would go on beside the new one in the same process.
    """

    def __init__(self) -> None:
        self._runs: dict[str, TaskRun] = {}
        self._noticed: set[str] = set()

    def add(self, runs: Iterable[TaskRun]) -> None:
        """Remember open runs."""
        self._runs.update((run.id, run) for run in runs)

    def __contains__(self, task: object) -> bool:
        run = self._runs.get(task) if isinstance(task, str) else None
        return run is not None and run.open

    def __iter__(self) -> Iterator[TaskRun]:
        return iter([run for run in self._runs.values() if run.open])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def report(self, notices: Notices) -> None:
        """Bring the notices of a session up to date, and forget the runs that have closed."""
        self._runs = {run.id: run for run in self}
        for task in self._noticed - self._runs.keys():
            notices.clear(f"stuck {task}")
        for run in self._runs.values():
            since = f"since this node lost its session {run.claim.node}"
            notices.report(
                f"stuck {run.id}", f"task {run.id} has not stopped {since}: its handler ignores cancellation"
            )
        self._noticed = set(self._runs)


def stack_of(task: trio.lowlevel.Task) -> str:
    """Return where a Trio task and the tasks in its nurseries wait, as text. Its end matters most, so that is kept."""
    texts: list[str] = []
    waiting = [task]
    while waiting:
        one = waiting.pop()
        texts.append(f"{one.name}:\n")
        texts += traceback.StackSummary.extract(one.iter_await_frames()).format()
        waiting += [child for nursery in one.child_nurseries for child in nursery.child_tasks]
    return "".join(texts)[-_MAX_STACK:]
