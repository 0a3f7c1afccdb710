"""Wire: kazoo's connection loop, changed to pass its replies and watch events to us.

Every private name of kazoo that the adapter uses is in this file; `check_kazoo` checks that they still are as in
kazoo 2.11.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped
from kazoo.protocol.connection import ConnectionHandler

from metafora_trio_zookeeper._connection import EventType

from .requests import Request

__all__ = ["Wire", "admit", "check_kazoo", "halt", "install"]

_EVENTS: dict[int, EventType] = {int(event): event for event in EventType}
# An event frame is: xid -1 (int), zxid (long), error (int); then type (int), session state (int), and the path as its
# length (int) and bytes, up to the frame's end.
_EVENT_XID = b"\xff\xff\xff\xff"
_HEADER_SIZE, _TYPE_SIZE, _PATH_START = 16, 4, 12


class Wire(ConnectionHandler):  # type: ignore[misc]  # kazoo is untyped
    """kazoo's loop with our requests and our watches.

    Args:
        answered: called with (request, error number or 0, zxid, frame, offset of the body).
        happened: called with each watch event.
    """

    def __init__(
        self,
        client: Any,
        *,
        sasl: dict[str, Any] | None,
        answered: Callable[[Request, int, int, bytes, int], None],
        happened: Callable[[EventType, str], None],
    ) -> None:
        super().__init__(client, client._conn_retry.copy(), logger=client.logger, sasl_options=sasl)
        self._answered = answered
        self._happened = happened

    def _read_response(self, header: Any, buffer: bytes, offset: int) -> Any:
        client = self.client
        request, _, xid = client._pending[0]
        if not isinstance(request, Request):
            return super()._read_response(header, buffer, offset)
        if header.xid != xid:
            # kazoo would let its thread die. But the session is fine: only this connection is broken.
            raise ConnectionDropped(f"got reply {header.xid}, expected {xid}")
        client._pending.popleft()
        if header.zxid > 0:
            client.last_zxid = header.zxid
        self._answered(request, header.err, header.zxid, buffer, offset)
        return None

    def note_life(self) -> None:
        """Do not take the server for dead although it has not answered the last ping yet.

        kazoo only knows whole frames. The answer to a ping may have to wait behind a reply that takes long on the link,
        and without this, that reply would be requested again and again, on one connection after another.
        """
        self.ping_outstanding.clear()

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        # Take all events that follow, since they come in bursts and a turn of kazoo's loop costs more than an event.
        frame: bytes | None = buffer[offset - _HEADER_SIZE :]
        while frame is not None:
            event = _EVENTS.get(int.from_bytes(frame[_HEADER_SIZE : _HEADER_SIZE + _TYPE_SIZE], "big", signed=True))
            if event is not None:
                self._happened(event, frame[_HEADER_SIZE + _PATH_START :].decode())
            frame = self.handler.take_frame(_EVENT_XID)


def install(client: Any, wire: Wire) -> None:
    """Make `client`, which must not have been started, use `wire` for its connections."""
    client._connection = wire


def admit(client: Any, request: Any) -> None:
    """Add a request to kazoo's queue. Call it in kazoo's thread only."""
    client._call(request, request if isinstance(request, Request) else None)


def halt(client: Any) -> None:
    """Make the loop end instead of connecting again. May be called from any thread.

    `KazooClient.stop` cannot be used: it waits for kazoo's thread, and this is also called in that thread, when a
    session ends.
    """
    client._stopped.set()


def check_kazoo() -> list[str]:
    """Return the differences between kazoo's private names and what this file expects; empty if there are none."""
    wrong = []
    for owner, name, parameters in (
        (ConnectionHandler, "__init__", ["self", "client", "retry_sleeper", "logger", "sasl_options"]),
        (ConnectionHandler, "_read_response", ["self", "header", "buffer", "offset"]),
        (ConnectionHandler, "_read_watch_event", ["self", "buffer", "offset"]),
        (KazooClient, "_call", ["self", "request", "async_object"]),
    ):
        function = getattr(owner, name, None)
        found = None if function is None else list(inspect.signature(function).parameters)
        if found != parameters:
            wrong.append(f"{owner.__name__}.{name} takes {found}, expected {parameters}")
    client = KazooClient()
    names = ("_connection", "_conn_retry", "_pending", "_stopped", "last_zxid", "_connection.ping_outstanding.clear")
    for name in names:
        try:
            attrgetter(name)(client)
        except AttributeError:
            wrong.append(f"KazooClient has no {name}")
    return wrong
