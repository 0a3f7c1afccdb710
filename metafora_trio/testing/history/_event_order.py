"""EventOrder: checks the order in which a consumer reports what happens to its tasks.

Events may legally repeat, because the node is level-triggered. After a broken connection it claims, ends or gives up a
task again for which it has done so before. This makes the order hard to state, so it is a table here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from metafora_trio.events import (
    Event,
    SessionEnded,
    SessionOpened,
    TaskClaimed,
    TaskEnded,
    TaskGivenUp,
    TaskOverran,
    TaskStarted,
    TaskStopFailed,
    TaskStopped,
    TaskStopping,
)

__all__ = ["EventOrder"]

_Claimed = (
    TaskClaimed | TaskStarted | TaskStopping | TaskStopped | TaskOverran | TaskStopFailed | TaskEnded | TaskGivenUp
)
_KINDS: Final = (
    TaskClaimed,
    TaskStarted,
    TaskStopping,
    TaskStopped,
    TaskOverran,
    TaskStopFailed,
    TaskEnded,
    TaskGivenUp,
)


class _Stage(enum.Enum):
    """How far a node has come with one claim, as far as its events show."""

    UNKNOWN = "nothing was reported"
    CLAIMED = "it was claimed"
    STARTED = "it had started"
    STOPPING = "it was stopping"
    STOPPED = "it had stopped"
    ENDED = "it had ended"
    GIVEN_UP = "it was given up"


_BEFORE: Final[Mapping[type[Event], frozenset[_Stage]]] = {
    TaskClaimed: frozenset({_Stage.UNKNOWN, _Stage.CLAIMED, _Stage.STOPPED, _Stage.GIVEN_UP}),
    TaskStarted: frozenset({_Stage.CLAIMED}),
    TaskStopping: frozenset({_Stage.STARTED, _Stage.STOPPING}),
    TaskStopped: frozenset({_Stage.STARTED, _Stage.STOPPING}),
    TaskOverran: frozenset({_Stage.STOPPED}),
    TaskStopFailed: frozenset({_Stage.STOPPED}),
    TaskEnded: frozenset({_Stage.UNKNOWN, _Stage.CLAIMED, _Stage.STOPPED, _Stage.ENDED, _Stage.GIVEN_UP}),
    TaskGivenUp: frozenset({_Stage.UNKNOWN, _Stage.CLAIMED, _Stage.STOPPED, _Stage.ENDED, _Stage.GIVEN_UP}),
}
"""For each event, the stages in which it may come."""
_AFTER: Final[Mapping[type[Event], _Stage]] = {
    TaskClaimed: _Stage.CLAIMED,
    TaskStarted: _Stage.STARTED,
    TaskStopping: _Stage.STOPPING,
    TaskStopped: _Stage.STOPPED,
    TaskOverran: _Stage.STOPPED,
    TaskStopFailed: _Stage.STOPPED,
    TaskEnded: _Stage.ENDED,
    TaskGivenUp: _Stage.GIVEN_UP,
}
_NOT_AFTER_THE_SESSION: Final = (TaskClaimed, TaskStarted, TaskEnded)


class EventOrder:
    """Checks the events of one or more consumers. Call `add` with each event, in order.

    The rules, for each claim (the session's identity, the task and the token):

    * A task starts only after it was claimed, and stops only after it has started. Between two starts under one claim
      it stops and is claimed again.
    * It ends or is given up only while no scope is open. Nothing starts under a claim that has ended its task.
    * Each new claim of a session for a task has a higher token.
    * Nothing is claimed, started or ended before the session has opened or after it has ended.
    """

    def __init__(self) -> None:
        self._stages: dict[tuple[str, str, int], _Stage] = {}
        self._tokens: dict[tuple[str, str], int] = {}
        self._open: dict[str, bool] = {}

    def add(self, event: Event) -> str:
        """Take the next event. Returns the rule that it breaks, in words, or an empty string."""
        if isinstance(event, SessionOpened):
            known = event.node in self._open
            self._open[event.node] = True
            return f"{event.node} opened its session twice" if known else ""
        if isinstance(event, SessionEnded):
            was_open = self._open.get(event.node, False)
            self._open[event.node] = False
            return "" if was_open else f"{event.node} ended a session that was not open"
        return self._add(event) if isinstance(event, _KINDS) else ""

    def _add(self, event: _Claimed) -> str:
        kind, key = type(event), (event.node, event.task, event.token)
        stage = self._stages.get(key, _Stage.UNKNOWN)
        self._stages[key] = _AFTER[kind]
        what = f"{kind.__name__} of {event.task} on {event.node} with token {event.token}"
        if stage not in _BEFORE[kind]:
            return f"{what} when {stage.value}"
        if not self._open.get(event.node, False) and isinstance(event, _NOT_AFTER_THE_SESSION):
            return f"{what} outside its session"
        if isinstance(event, TaskClaimed):
            highest = self._tokens.get((event.node, event.task), -1)
            self._tokens[event.node, event.task] = max(highest, event.token)
            if event.token < highest:
                return f"{what} after token {highest}"
        return ""
