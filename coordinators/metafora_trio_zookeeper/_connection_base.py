"""ConnectionBase: the life of one session, the same for every `Connection`.

`Connection` states the promises. This class keeps them over any transport:

* It sets a state before it calls any callback or the sink. So a request made by one of them is refused, not lost.
* The first final state is the last: nothing that arrives later changes it.
* It keeps the outstanding requests. Each ends by its reply or by the next state that is not CONNECTED, whichever comes
  first. They fail in the order in which they were made. A late reply is ignored.
* Closing is shielded and bounded: it asks the server to close the session, and asks again on each new connection, for
  at most one session timeout.

A subclass adds the transport: it connects, carries requests and replies, and puts calls in order.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import trio

from metafora_trio.contract import RepeatedEvent

from ._connection import ConnectionState, Done, ErrorCode, Reply, RequestError, Sink

__all__ = ["ConnectionBase", "Established"]

_FINAL: Final = frozenset({ConnectionState.EXPIRED, ConnectionState.AUTH_FAILED, ConnectionState.CLOSED})


RequestT = TypeVar("RequestT", bound=Hashable)


class Established(NamedTuple):
    """The attributes of a connection whose session has just been established; see `Connection`."""

    connected_at: float
    number: int
    server: str
    session_timeout: float
    session_id: int


class ConnectionBase(abc.ABC, Generic[RequestT]):
    """The attributes of a `Connection`, and the bookkeeping behind them.

    Only this class sets the attributes. All methods are called in the Trio thread, except `_prove`.
    """

    def __init__(self) -> None:
        self.state: ConnectionState = ConnectionState.DISCONNECTED
        self.number: int = 0
        self.session_id: int = 0
        self.session_timeout: float = 0.0
        self.server: str = ""
        self.proof: float = -math.inf
        self.connected_at: float = -math.inf
        self.halted: str = ""
        self._sink: Sink | None = None
        # In the order in which the requests were made, because they must fail in that order.
        self._outstanding: dict[RequestT, Done] = {}
        self._state_changed = RepeatedEvent()
        self._closing = False
        self._closed = trio.Event()
        self._error: Exception | None = None

    async def open(self, sink: Sink) -> None:
        """See `Connection`. May be called only once."""
        if self._sink is not None:
            raise RuntimeError("the connection was already opened")
        self._sink = sink
        self._start()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """See `Connection`. Raises the first exception that a sink or a callback raised, if `_failed` kept it."""
        with trio.CancelScope(shield=True):
            if self._closing:
                await self._closed.wait()
                return
            self._closing = True
            try:
                if self.session_id and self.state not in _FINAL:
                    with trio.move_on_after(self.session_timeout):
                        await self._close_session()
                await self._stop()
                self._set_state(ConnectionState.CLOSED)
                await trio.lowlevel.checkpoint()
            finally:
                self._closed.set()
        if self._error is not None:
            raise self._error

    async def _close_session(self) -> None:
        """Ask the server to close the session. If the connection breaks, ask again on the next one."""
        while self.state not in _FINAL:
            if self.state is ConnectionState.CONNECTED:
                self._transmit_close()
            await self._state_changed.wait()

    # ---- for the transport

    def _request(self, request: RequestT, done: Done) -> None:
        """Send a request, or queue its failure: `done` is never called from inside this call."""
        self._outstanding[request] = done
        if self.state is ConnectionState.CONNECTED and not self._closing:
            self._transmit(request)
        else:
            self._post(self._deliver, request, self._loss())

    def _request_each(self, requests: Sequence[RequestT], done: Done) -> None:
        """Send requests about one znode each. `done` gets a tuple of their values: None for those that do not exist,
        and the error of those that were refused. If the connection breaks, it gets one error, once all have failed."""
        values: list[Any] = [None] * len(requests)
        errors: list[RequestError] = []
        left, zxid = len(requests), 0

        def answered(place: int, reply: Reply | RequestError) -> None:
            nonlocal left, zxid
            left -= 1
            if isinstance(reply, Reply):
                values[place], zxid = reply.value, max(zxid, reply.zxid)
            elif reply.code in (ErrorCode.CONNECTION_LOSS, ErrorCode.SESSION_EXPIRED):
                errors.append(reply)
            elif reply.code is not ErrorCode.NO_NODE:
                values[place] = reply
            if not left:
                done(errors[0] if errors else Reply(tuple(values), zxid))

        for place, request in enumerate(requests):
            self._request(request, partial(answered, place))
        if not requests:
            self._post(lambda _, __: done(Reply((), 0)), None, None)

    def _deliver(self, request: RequestT, result: Reply | RequestError) -> None:
        """Pass a reply to its request's callback, unless the request has already failed."""
        done = self._outstanding.pop(request, None)
        if done is not None:
            done(result)

    def _prove(self, stamp: float) -> None:
        """Note that a heartbeat was acknowledged. Call this where the reply is read, in any one thread."""
        self.proof = max(self.proof, stamp)

    def _set_state(self, state: ConnectionState, established: Established | None = None) -> None:
        """Enter a state, fail the outstanding requests unless it is CONNECTED, and notify the sink.

        Args:
            state: the new state; ignored once the present one is final.
            established: for CONNECTED, the attributes of the connection.
        """
        if self.state in _FINAL:
            return
        self.state = state
        if established is not None:
            self.connected_at, self.number, self.server, self.session_timeout, self.session_id = established
        else:
            self.server = ""
            outstanding, self._outstanding = self._outstanding, {}
            for done in outstanding.values():
                try:
                    done(self._loss())
                except Exception as error:  # noqa: BLE001  # `_failed` decides: it raises or keeps the error
                    self._failed(error)
        self._state_changed.set()
        if self._sink is not None:
            self._sink.on_state(state)

    def _loss(self) -> RequestError:
        expired = self.state is ConnectionState.EXPIRED
        return RequestError(ErrorCode.SESSION_EXPIRED if expired else ErrorCode.CONNECTION_LOSS)

    def _failed(self, error: Exception) -> None:
        """Handle the exception of a callback. If this returns, the remaining callbacks are still called."""
        raise error

    @abc.abstractmethod
    def _start(self) -> None:
        """Start connecting."""

    @abc.abstractmethod
    async def _stop(self) -> None:
        """Break the connection, make no other, and free its resources. Runs shielded, so it must end by itself."""

    @abc.abstractmethod
    def _transmit(self, request: RequestT) -> None:
        """Send a request on the present connection, never on a later one."""

    @abc.abstractmethod
    def _transmit_close(self) -> None:
        """Send the request to close the session on the present connection."""

    @abc.abstractmethod
    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Queue `call(first, second)` behind everything that has arrived."""
