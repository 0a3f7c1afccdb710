"""Caution: lets only a few tasks start at once, as long as it is not known that tasks do not fail at once here.

A node may get hundreds of tasks in one moment. If its handler fails at once, all of them would have failed before the
third failure could suspend the node.
"""

from __future__ import annotations

import trio

from metafora_trio._trio_util import AsyncBool

__all__ = ["Caution"]

_PERIOD = 0.05
"""Seconds in which no task fails, after which any number may start. What fails later did not fail at once, and a longer
time would delay every cold start."""


class Caution:
    """Lets tasks start: a few in each period, and all of them after a period without a failure.

    Args:
        few: how many; None for no limit at any time.
    """

    def __init__(self, few: int | None) -> None:
        self._few = few
        self._careful = AsyncBool(few is not None)
        self._waiting = AsyncBool()
        self._left = few or 0
        self._failed = False

    async def wait_turn(self) -> None:
        """Wait until the next task may start. Not a checkpoint if it may start now."""
        while self._careful.value:
            self._waiting.value = True
            if self._left > 0:
                self._left -= 1
                return
            with trio.move_on_after(_PERIOD):
                await self._careful.wait_value(False)

    def note_failure(self) -> None:
        """Be careful, because a task has failed."""
        if self._few is not None:
            self._failed = self._careful.value = True

    def end(self) -> None:
        """Let all tasks start, because tasks have succeeded, or because the node refuses them anyway from now on."""
        self._careful.value = self._failed = False

    async def run(self) -> None:
        """Begin a new period as long as tasks wait, forever."""
        while True:
            await self._waiting.wait_value(True)
            await trio.sleep(_PERIOD)
            self._waiting.value = False
            self._left = self._few or 0
            if not self._failed:
                self.end()
            self._failed = False
