"""Quarantine: the tasks that this node has set aside, because the broker refuses something about them.

One bad task must cost no other task anything, so a refusal is reported and tried again later. There are two kinds:

* **The task cannot be read.** The node gives its claim up and leaves the task alone for a while, as after any task that
  it gives back. It then tries again, or another node does.
* **The end of the task cannot be written.** The node keeps the claim and the end, and never runs the handler again.
  The session tries again, see `Session.refusals`.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from metafora_trio._model.claim import Claim
from metafora_trio._trio_util import AsyncBool
from metafora_trio.contract import Session
from metafora_trio.events import Event, TaskQuarantined

from .notices import Notices

__all__ = ["Quarantine"]

_PERIOD = 10.0
"""Seconds between two looks at the tasks that could not be read. One that another node has kept for so long is well."""


class Quarantine:
    """Reports the tasks that are set aside: by an event when the refusals begin, and by a notice as long as they last.

    Args:
        session: its view shows what has become of a task.
        notices: what people should know about this node.
        emit: reports an event.
    """

    def __init__(self, session: Session, notices: Notices, emit: Callable[[Event], None]) -> None:
        self._session = session
        self._me = session.node.identity
        self._notices = notices
        self._emit = emit
        self._unread: dict[str, Claim | None] = {}  # with the head of the queue at the last look
        self._unended: dict[str, str] = {}
        self._some_unread = AsyncBool()

    def set_aside(self, task: str, reason: str) -> None:
        """Note that a task could not be read."""
        known = task in self._unread
        self._unread[task] = None
        self._some_unread.value = True
        self._report(task, reason, known=known)

    def has_read(self, task: str) -> None:
        """Note that a task was read."""
        if task in self._unread:
            del self._unread[task]
            self._notices.clear(_subject(task))

    def look_at_ends(self) -> None:
        """Compare the ends that the broker refuses with what was reported."""
        refusals = self._session.refusals
        for task in [task for task in self._unended if task not in refusals]:
            del self._unended[task]
            self._notices.clear(_subject(task))
        for task, reason in list(refusals.items()):
            known = task in self._unended
            if self._unended.get(task) != reason:
                self._unended[task] = reason
                self._report(task, f"the end of task {task!r} cannot be written: {reason}", known=known)

    async def run(self) -> None:
        """Release the tasks that could not be read and have gone or moved to another node. Runs until cancelled."""
        while True:
            await self._some_unread.wait_value(True)
            while self._unread:
                await trio.sleep(_PERIOD)
                if self._session.current:
                    self._release_moved()
            self._some_unread.value = False

    def _release_moved(self) -> None:
        view = self._session.view
        for task, seen in list(self._unread.items()):
            head = view.head(task)
            kept = head is not None and head == seen and head.node != self._me
            if kept or task not in view.tasks:
                self.has_read(task)
            else:
                self._unread[task] = head

    def _report(self, task: str, reason: str, *, known: bool) -> None:
        self._notices.report(_subject(task), reason)
        if not known:
            self._emit(TaskQuarantined(self._me, task, reason))


def _subject(task: str) -> str:
    return f"task {task}"
