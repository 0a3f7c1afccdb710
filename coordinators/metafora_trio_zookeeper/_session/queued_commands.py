"""QueuedCommands: the commands to nodes that are queued at the broker, for this session and for others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import trio

from metafora_trio import Command
from metafora_trio.contract import InvalidRecord, QueuedCommand
from metafora_trio_zookeeper._connection import EventType, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._layout import Layout, known

__all__ = ["QueuedCommands"]


class QueuedCommands:
    """Follows the queued commands. They are not part of the view, since one that is seen late or twice does no harm.

    Args:
        layout: the namespace.
        identity: the session's own.
        read: reads a znode.
        changed: called when a command for this session is added or removed.

    Attributes:
        own: the commands for this session, by the name of their znode.
        others: the names of the commands for other sessions, with the time at which each was first seen.
    """

    def __init__(
        self,
        layout: Layout,
        identity: str,
        read: Callable[[str, Callable[[Reply | RequestError], None]], None],
        changed: Callable[[], None],
    ) -> None:
        self.own: dict[str, QueuedCommand] = {}
        self.others: dict[str, float] = {}
        self._layout = layout
        self._identity = identity
        self._read = read
        self._changed = changed

    def relist(self, names: Sequence[str]) -> list[str]:
        """Return the names of the commands for this session, and note those for others, as a resync has listed them.

        What was removed while the connection was broken is forgotten.
        """
        listed = set(names)
        self.others = {name: seen for name, seen in self.others.items() if name in listed}
        return self._select_own(names)

    def _select_own(self, names: Iterable[str]) -> list[str]:
        own = []
        for name in names:
            queued = known(self._layout.parse_node_command(name), self._layout.node_commands, name)
            if queued is None:
                continue
            if queued[0] == self._identity:
                own.append(name)
            else:
                self.others.setdefault(name, trio.current_time())
        return own

    def restart(self, names: Iterable[str], records: Iterable[ReadResult | RequestError | None]) -> None:
        """Start again with the commands for this session that a resync found."""
        self.own.clear()
        for name, record in zip(names, records, strict=True):
            self._add(name, record)

    def forget(self, name: str) -> None:
        """Note that a command is gone."""
        self.others.pop(name, None)
        if self.own.pop(name, None):
            self._changed()

    def apply(self, event: EventType, name: str) -> None:
        """Apply an event of a command's znode."""
        if event == EventType.DELETED:
            self.forget(name)
        elif event == EventType.CREATED and self._select_own([name]):
            self._read(self._layout.node_command_path(name), lambda reply: self._on_read(name, reply))

    def _on_read(self, name: str, reply: Reply | RequestError) -> None:
        if isinstance(reply, Reply):
            self._add(name, reply.value[0])

    def _add(self, name: str, record: ReadResult | RequestError | None) -> None:
        if record is None:
            return
        command: Command | None = None  # the node reports and discards what cannot be read when its turn comes
        if isinstance(record, ReadResult):
            with contextlib.suppress(InvalidRecord):
                command = Command.decode(record.data)
        self.own[name] = QueuedCommand(name, self._identity, command)
        self._changed()
