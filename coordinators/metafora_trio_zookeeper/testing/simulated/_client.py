"""Client: what a simulated server keeps for one established connection."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence

from metafora_trio_zookeeper._connection import EventType

from ._network import Request

__all__ = ["Client"]


class _Mode(enum.Enum):
    ONCE = enum.auto()
    RECURSIVE = enum.auto()


class Client:
    """The server's end of one established connection, which watches znodes.

    ZooKeeper 3.8.0 keeps two tables of watches, and in each of them a single mode per connection and path. So a
    one-shot watch replaces a recursive one (ZOOKEEPER-4466).

    Attributes:
        queue: the requests from the oldest unanswered write on.
    """

    def __init__(self) -> None:
        self.queue: deque[Request] = deque()
        self._data: dict[str, _Mode] = {}
        self._child: dict[str, _Mode] = {}

    def watch(self, path: str) -> None:
        self._data[path] = self._child[path] = _Mode.RECURSIVE

    def watch_once(self, path: str) -> None:
        self._data[path] = _Mode.ONCE

    def sees(self, event: EventType, ancestors: Sequence[str]) -> bool:
        """Return whether to send this client an event at `ancestors[0]`; the other paths are those above it."""
        seen = bool(self._data) and _trigger(self._data, ancestors)
        if event is EventType.DELETED and self._child:
            seen = _trigger(self._child, ancestors) or seen
        return seen


def _trigger(table: dict[str, _Mode], ancestors: Sequence[str]) -> bool:
    seen = False
    if table.get(ancestors[0]) is _Mode.ONCE:
        del table[ancestors[0]]
        seen = True
    return seen or any(table.get(path) is _Mode.RECURSIVE for path in ancestors)
