"""The orders that stand at the broker: those to this session, and those to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from metafora_trio._model.command import Command, Order
from metafora_trio_zookeeper._connection import EventType, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._layout import Layout, known

__all__ = ["Orders"]


class Orders:
    """Orders are no part of the view: one that comes late, or is seen twice, does no harm.

    Args:
        layout: the namespace.
        identity: the session's own.
        read: reads a znode.
        changed: called when there is something new for this session.

    Attributes:
        own: the orders addressed to this session, by the name of their znode.
        strays: the orders addressed to others, with the time at which they were first seen.
    """

    def __init__(
        self,
        layout: Layout,
        identity: str,
        read: Callable[[str, Callable[[Reply | RequestError], None]], None],
        changed: Callable[[], None],
    ) -> None:
        self.own: dict[str, Order] = {}
        self.strays: dict[str, float] = {}
        self._layout = layout
        self._identity = identity
        self._read = read
        self._changed = changed

    def sort(self, names: Iterable[str]) -> list[str]:
        """Those of the orders that are addressed to this session; the others are remembered as strays."""
        own = []
        for name in names:
            order = known(self._layout.parse_order(name), self._layout.orders, name)
            if order is None:
                continue
            if order[0] == self._identity:
                own.append(name)
            else:
                self.strays.setdefault(name, trio.current_time())
        return own

    def restart(self, names: Iterable[str], records: Iterable[ReadResult | None]) -> None:
        """Begin anew with the own orders that are there."""
        self.own.clear()
        for name, record in zip(names, records, strict=True):
            self._add(name, record)

    def forget(self, name: str) -> None:
        """An order is gone."""
        self.strays.pop(name, None)
        if self.own.pop(name, None):
            self._changed()

    def apply(self, event: EventType, name: str) -> None:
        """Apply an event of an order's znode."""
        if event == EventType.DELETED:
            self.forget(name)
        elif event == EventType.CREATED and self.sort([name]):
            self._read(self._layout.order_path(name), lambda reply: self._on_read(name, reply))

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
        self.own[name] = Order(name, self._identity, command)
        self._changed()
