"""The life of one session, which every `Connection` lives in the same way.

`Connection` says what is promised; this keeps it, over any transport:

* A state is set before anyone is notified of it, so that a request made by a callback is refused rather than lost.
* The first final state is the last: nothing that arrives later changes it.
* Outstanding requests are known here. Each ends by its reply or by the next state that is not CONNECTED, whichever
  comes first, in the order in which they were made. A late reply finds its request gone.
* Closing is shielded and bounded: the server is asked to close the session, again on each new connection, for at most
  one session timeout.

A subclass brings the transport: how to connect, how requests and replies travel, and how calls are put in order.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import trio

from metafora_trio.contract import RepeatedEvent

from ._connection import ConnectionState, Done, ErrorCode, Reply, RequestError, Sink

__all__ = ["ConnectionBase", "Established"]

_FINAL: Final = frozenset({ConnectionState.EXPIRED, ConnectionState.AUTH_FAILED, ConnectionState.CLOSED})


RequestT = TypeVar("RequestT", bound=Hashable)


class Established(NamedTuple):
    """What is known of a connection once its session is established on it; see `Connection`."""

    connected_at: float
    number: int
    server: str
    session_timeout: float
    session_id: int


class ConnectionBase(abc.ABC, Generic[RequestT]):
    """The attributes of a `Connection`, and the bookkeeping behind them.

    Only this class sets the attributes. Everything is called in the Trio thread, except `_prove`.
    """

    def __init__(self) -> None:
        self.state: ConnectionState = ConnectionState.DISCONNECTED
        self.number: int = 0
        self.session_id: int = 0
        self.session_timeout: float = 0.0
        self.server: str = ""
        self.proof: float = -math.inf
        self.connected_at: float = -math.inf
        self._sink: Sink | None = None
        # In the order in which the requests were made: so they fail.
        self._outstanding: dict[RequestT, Done] = {}
        self._state_changed = RepeatedEvent()
        self._closing = False
        self._closed = trio.Event()
        self._error: Exception | None = None

    async def open(self, sink: Sink) -> None:
        """See `Connection`. Once only."""
        if self._sink is not None:
            raise RuntimeError("opened already")
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
        """Ask the server to close the session, and again on the next connection if this one breaks."""
        while self.state not in _FINAL:
            if self.state is ConnectionState.CONNECTED:
                self._transmit_close()
            await self._state_changed.wait()

    # ---- for the transport

    def _request(self, request: RequestT, done: Done) -> None:
        """Send a request, or have it fail in its turn: never from inside this call."""
        self._outstanding[request] = done
        if self.state is ConnectionState.CONNECTED and not self._closing:
            self._transmit(request)
        else:
            self._post(self._deliver, request, self._loss())

    def _deliver(self, request: RequestT, result: Reply | RequestError) -> None:
        """Hand a reply to its request, unless that has ended."""
        done = self._outstanding.pop(request, None)
        if done is not None:
            done(result)

    def _prove(self, stamp: float) -> None:
        """Note that a heartbeat was acknowledged. Call it where the reply is read, in whichever thread."""
        self.proof = max(self.proof, stamp)

    def _set_state(self, state: ConnectionState, established: Established | None = None) -> None:
        """Enter a state, fail what it ends, and notify the sink.

        Args:
            state: the new state; ignored once the present one is final.
            established: of CONNECTED, what is known of the connection.
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
                except Exception as error:  # noqa: BLE001  # the transport says what becomes of it
                    self._failed(error)
        self._state_changed.set()
        if self._sink is not None:
            self._sink.on_state(state)

    def _loss(self) -> RequestError:
        expired = self.state is ConnectionState.EXPIRED
        return RequestError(ErrorCode.SESSION_EXPIRED if expired else ErrorCode.CONNECTION_LOSS)

    def _failed(self, error: Exception) -> None:
        """Take the exception of a callback. If this returns, the remaining callbacks are still called."""
        raise error

    @abc.abstractmethod
    def _start(self) -> None:
        """Start connecting."""

    @abc.abstractmethod
    async def _stop(self) -> None:
        """Break the connection, make no other, and free what it holds. Runs shielded, so it must end by itself."""

    @abc.abstractmethod
    def _transmit(self, request: RequestT) -> None:
        """Send a request on the present connection, never on a later one."""

    @abc.abstractmethod
    def _transmit_close(self) -> None:
        """Send the request to close the session on the present connection."""

    @abc.abstractmethod
    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        """Have `call(first, second)` made in its turn, behind all that has arrived."""
