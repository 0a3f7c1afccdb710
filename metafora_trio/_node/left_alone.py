"""LeftAlone: the tasks that this node does not take for a while: those it gave back, and those that end nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator

import trio

from metafora_trio._model.lethal_tasks import LethalTasks
from metafora_trio.contract import Session
from metafora_trio.events import Event, TaskQuarantined

from .notices import Notices

__all__ = ["LeftAlone"]

_FIRST, _MOST = 1.0, 60.0
"""First and longest time, in seconds, for which a node does not take a task that it gave back. The time doubles each
time the task is given back again."""


class LeftAlone:
    """Knows which tasks to leave alone, and until when. Reports those that end nodes.

    Args:
        session: its view shows the nodes, and which node owns a task.
        lethal_tasks: what is known about tasks that end nodes. It outlasts the session.
        notices: what people should know about this node.
        emit: reports an event.
    """

    def __init__(
        self, session: Session, lethal_tasks: LethalTasks, notices: Notices, emit: Callable[[Event], None]
    ) -> None:
        self._session = session
        self._lethal = lethal_tasks
        self._notices = notices
        self._emit = emit
        self._given_back: dict[str, tuple[float, float]] = {}  # the end of the time, and its length
        self._reported: set[str] = set()

    def give_back(self, task: str) -> None:
        """Leave a task alone that this node gives back."""
        _, delay = self._given_back.get(task, (0.0, 0.0))
        delay = min(2 * delay, _MOST) if delay else _FIRST
        self._given_back[task] = (trio.current_time() + delay, delay)

    def is_lethal(self, task: str) -> bool:
        """Return whether to leave a task alone now because it seems to end every node that runs it."""
        return self._lethal.left_alone(task, trio.current_time())

    def __contains__(self, task: str) -> bool:
        until, _ = self._given_back.get(task, (-math.inf, 0.0))
        return trio.current_time() < until or self.is_lethal(task)

    def __iter__(self) -> Iterator[str]:
        """Yield the tasks to leave alone now."""
        now = trio.current_time()
        yield from (task for task, (until, _) in self._given_back.items() if now < until)
        yield from (task for task, _ in self._lethal.found() if self._lethal.left_alone(task, now))

    def ends(self) -> Iterator[float]:
        """Yield the times at which tasks that this node gave back may be taken again, past ones too."""
        return (until for until, _ in self._given_back.values())

    def look_again(self) -> None:
        """Note the owners of all tasks that are followed. Call this with a new view: it does not show what changed."""
        self.look_at_tasks(self._lethal.followed())

    def look_at_tasks(self, tasks: Collection[str]) -> None:
        """Note the owners of tasks that have changed."""
        view, now = self._session.view, trio.current_time()
        for task in tasks:
            self._lethal.look_at_task(task, view.owner(task), now)

    def look_at_nodes(self) -> None:
        """Note which nodes have gone, and report the tasks that seem to have ended them."""
        view, now = self._session.view, trio.current_time()
        self._lethal.look_at_nodes(view.nodes, view.tasks, now)
        self._given_back = {task: entry for task, entry in self._given_back.items() if now < entry[0] + _MOST}
        found = dict(self._lethal.found())
        for task in self._reported - found.keys():
            self._reported.remove(task)
            self._notices.clear(f"lethal {task}")
        for task, deaths in found.items():
            reason = f"task {task} is left alone for a while: {deaths} nodes have gone soon after they got it"
            self._notices.report(f"lethal {task}", reason)
            if task not in self._reported:
                self._reported.add(task)
                self._emit(TaskQuarantined(self._session.node.identity, task, reason))
