"""The commands that stand at the broker: those to this session, and those to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from metafora_trio import Command
from metafora_trio.contract import QueuedCommand
from metafora_trio_zookeeper._connection import EventType, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._layout import Layout, known

__all__ = ["QueuedCommands"]


class QueuedCommands:
    """Commands are no part of the view: one that comes late, or is seen twice, does no harm.

    Args:
        layout: the namespace.
        identity: the session's own.
        read: reads a znode.
        changed: called when there is something new for this session.

    Attributes:
        own: the commands addressed to this session, by the name of their znode.
        strays: the commands addressed to others, with the time at which they were first seen.
    """

    def __init__(
        self,
        layout: Layout,
        identity: str,
        read: Callable[[str, Callable[[Reply | RequestError], None]], None],
        changed: Callable[[], None],
    ) -> None:
        self.own: dict[str, QueuedCommand] = {}
        self.strays: dict[str, float] = {}
        self._layout = layout
        self._identity = identity
        self._read = read
        self._changed = changed

    def sort(self, names: Iterable[str]) -> list[str]:
        """Those of the commands that are addressed to this session; the others are remembered as strays."""
        own = []
        for name in names:
            queued = known(self._layout.parse_node_command(name), self._layout.node_commands, name)
            if queued is None:
                continue
            if queued[0] == self._identity:
                own.append(name)
            else:
                self.strays.setdefault(name, trio.current_time())
        return own

    def restart(self, names: Iterable[str], records: Iterable[ReadResult | None]) -> None:
        """Begin anew with the own commands that are there."""
        self.own.clear()
        for name, record in zip(names, records, strict=True):
            self._add(name, record)

    def forget(self, name: str) -> None:
        """A command is gone."""
        self.strays.pop(name, None)
        if self.own.pop(name, None):
            self._changed()

    def apply(self, event: EventType, name: str) -> None:
        """Apply an event of a command's znode."""
        if event == EventType.DELETED:
            self.forget(name)
        elif event == EventType.CREATED and self.sort([name]):
            self._read(self._layout.node_command_path(name), lambda reply: self._on_read(name, reply))

    def _on_read(self, name: str, reply: Reply | RequestError) -> None:
        if isinstance(reply, Reply):
            self._add(name, reply.value[0])

    def _add(self, name: str, record: ReadResult | None) -> None:
        if record is None:
            return
        try:
            command = Command.decode(record.data)
        except (ValueError, RecursionError):
            command = None  # whoever carries it out reports and discards it
        self.own[name] = QueuedCommand(name, self._identity, command)
        self._changed()
