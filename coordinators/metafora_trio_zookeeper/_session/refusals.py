"""Refusals: the ends of tasks that ZooKeeper refuses to write, and when to try again.

A submitter's ACL may lack a permission, or somebody may have created a znode below the task. Only that task is
concerned, so the session goes on. It keeps the claim, since the handler has ended and must not run again elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from metafora_trio import Claim
from metafora_trio.contract import AsyncBool

__all__ = ["Refusals"]

_FIRST, _LONGEST = 1.0, 60.0
"""First and longest time, in seconds, until an end is tried again. The time doubles with each refusal."""


@dataclass(slots=True)
class _Refusal:
    claim: Claim
    delay: float
    until: float


class Refusals:
    """Holds each claim whose end was refused for a while, during which it counts as leaving.

    Args:
        again: called with a task whose claim is no longer held, to decide again what to do about it.

    Attributes:
        reasons: the tasks whose end was refused, with the reason, until the claim is gone.
    """

    def __init__(self, again: Callable[[str], None]) -> None:
        self.reasons: dict[str, str] = {}
        self._again = again
        self._refused: dict[str, _Refusal] = {}
        self._changed = AsyncBool()

    def holds(self, claim: Claim) -> bool:
        """Return whether the time until the next attempt is not over yet."""
        refusal = self._refused.get(claim.task)
        return refusal is not None and refusal.claim == claim and refusal.until < math.inf

    def refused(self, claim: Claim, reason: str) -> None:
        """Note that the end under this claim was refused, and hold the claim."""
        before = self._refused.get(claim.task)
        delay = min(2 * before.delay, _LONGEST) if before is not None and before.claim == claim else _FIRST
        self._refused[claim.task] = _Refusal(claim, delay, trio.current_time() + delay)
        self.reasons[claim.task] = reason
        self._changed.value = True

    def gone(self, claim: Claim) -> None:
        """Note that a claim is gone."""
        refusal = self._refused.get(claim.task)
        if refusal is not None and refusal.claim == claim:
            del self._refused[claim.task], self.reasons[claim.task]

    def restart(self, own: Iterable[Claim]) -> None:
        """Keep only the session's claims that a resync found, and hold none of them: each is decided anyway."""
        kept = {claim for claim in own if claim.task in self._refused}
        for refusal in list(self._refused.values()):
            if refusal.claim in kept:
                refusal.until = math.inf
            else:
                self.gone(refusal.claim)

    async def run(self) -> None:
        """Let each claim go when its time is over. Runs until cancelled."""
        while True:
            with trio.move_on_at(min((refusal.until for refusal in self._refused.values()), default=math.inf)):
                await self._changed.wait_value(True)
            self._changed.value = False
            now = trio.current_time()
            for task, refusal in list(self._refused.items()):
                if refusal.until <= now:
                    refusal.until = math.inf
                    self._again(task)
