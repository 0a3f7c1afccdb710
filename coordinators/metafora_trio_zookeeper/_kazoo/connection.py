"""KazooConnection: the `Connection` on kazoo.

Why this is hard: kazoo runs in its own thread and manages sessions differently. It starts a second session after the
first, repeats queued requests, blocks its callers, and delivers events and replies on separate paths. These rules keep
it simple here:

* kazoo's thread only posts states, events and replies through one `Inbox`, in wire order. All decisions are made in the
  Trio thread.
* `ConnectionBase` keeps the outstanding requests; kazoo's own record of them is ignored. A state comes through the
  inbox after everything that was read on the connection before it.
* A request carries the number of its connection and is never written on another (see `TrioHandler`).
* The first final state (EXPIRED, AUTH_FAILED, CLOSED) stops kazoo in its own thread, before it can connect again.
* `send_from_thread` and `halt_from_thread` work while the event loop is blocked, because they only use what kazoo's
  thread reads anyway. What comes of them is posted through the inbox like everything else.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio
from kazoo.client import KazooClient
from kazoo.protocol.connection import PURESASL_AVAILABLE
from kazoo.protocol.serialization import CloseInstance
from kazoo.protocol.states import KazooState, KeeperState
from kazoo.security import ACL, OPEN_ACL_UNSAFE

from metafora_trio_zookeeper._connection import (
    ConnectionState,
    Done,
    EventType,
    Reply,
    RequestError,
    WriteOp,
)
from metafora_trio_zookeeper._connection_base import ConnectionBase, Established

from . import requests as requests
from .inbox import Inbox
from .requests import Request
from .trio_handler import ANY_CONNECTION, TrioHandler
from .wire import Wire, admit, halt, install

__all__ = ["KazooConnection"]

_MAX_WAITING = 64 << 20
"""Bytes that may wait in the inbox. 200,000 events, such as those of a cold start of 100,000 tasks, take 40 MB."""

_ENDS: Final = {
    KeeperState.EXPIRED_SESSION: ConnectionState.EXPIRED,
    KeeperState.AUTH_FAILED: ConnectionState.AUTH_FAILED,
    KeeperState.CLOSED: ConnectionState.CLOSED,
}


class KazooConnection(ConnectionBase[Request]):
    """One ZooKeeper session through one KazooClient, which is never restarted.

    Create it inside `trio.run`, and call `aclose` even if it was never opened. `proof` is set in kazoo's thread.

    Args:
        hosts: `host:port,host:port`; without a chroot.
        session_timeout: the timeout to request from the servers, in seconds.
        auth: (scheme, credential) pairs, sent on every connect, such as ("digest", "user:password").
        sasl: kazoo's `sasl_options`; needs the package pure-sasl.
        acl: the ACL of every znode created; None leaves them open to the world.
        tls: None, or kazoo's options: `ca`, `certfile`, `keyfile`, `keyfile_password`, `verify_certs` (True),
            `check_hostname` (False), `use_ssl` (True). With `ca`, only that authority is trusted.
        connect_timeout: seconds to try one address; by default session_timeout / (4 x hosts), from 0.2 to 1.
        randomize_hosts: whether to try the hosts in random order.
        logger: for kazoo and for this connection.
        max_waiting: the number of bytes received that may wait while the event loop is blocked. With more, the session
            ends.

    Raises:
        ValueError: from the constructor, on a chroot or an unknown TLS option.
        OSError: from the constructor, on unreadable TLS files (ssl.SSLError included).
    """

    def __init__(
        self,
        hosts: str,
        *,
        session_timeout: float,
        auth: Sequence[tuple[str, str]] = (),
        sasl: Mapping[str, Any] | None = None,
        acl: Sequence[ACL] | None = None,
        tls: Mapping[str, Any] | None = None,
        connect_timeout: float | None = None,
        randomize_hosts: bool = True,
        logger: logging.Logger | None = None,
        max_waiting: int = _MAX_WAITING,
    ) -> None:
        if "/" in hosts:
            raise ValueError(f"a chroot is not supported, use the namespace: {hosts!r}")
        if sasl is not None and not PURESASL_AVAILABLE:
            raise ValueError("SASL needs the package pure-sasl")
        super().__init__()
        self._logger = logger or logging.getLogger(__name__)
        self._acl = requests.encode_acl(OPEN_ACL_UNSAFE if acl is None else acl)
        self._clock_offset = trio.current_time() - time.perf_counter()
        self._thread_ended = trio.Event()
        self._inbox = Inbox(self._failed, limit=max_waiting, on_overflow=lambda: self._overflowed(max_waiting))

        count = hosts.count(",") + 1
        self._connect_timeout = connect_timeout or max(0.2, min(1.0, session_timeout / (4 * count)))
        self._handler = TrioHandler(
            admit=lambda request: admit(self._client, request),
            idle=self._inbox.wake,
            alive=lambda: wire.note_life(),
            ended=lambda: self._inbox.post(self._on_thread_ended, None, None),
            connect_timeout=self._connect_timeout,
            patience=session_timeout,
            context=_tls_context(tls),
        )
        self._client = KazooClient(
            hosts,
            timeout=session_timeout,
            handler=self._handler,
            auth_data=list(auth),
            randomize_hosts=randomize_hosts,
            # Not kazoo's default, whose delay grows to an hour.
            connection_retry={"max_tries": -1, "delay": 0.05, "backoff": 1.5, "max_delay": session_timeout / 10},
            logger=self._logger,
        )
        wire = Wire(
            self._client,
            sasl=None if sasl is None else dict(sasl),
            answered=self._answered,
            happened=self._happened,
        )
        install(self._client, wire)
        self._client.add_listener(self._listen)

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    @property
    def received(self) -> int:
        return self._handler.received

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self._request(requests.transact(ops, self._acl), done)

    def read(self, paths: Sequence[str], done: Done) -> None:
        self._request(requests.read(paths), done)

    def exists(self, paths: Sequence[str], done: Done) -> None:
        self._request_each([requests.exists(path) for path in paths], done)

    def children(self, path: str, done: Done) -> None:
        self._request(requests.children(path), done)

    def add_watch(self, path: str, done: Done) -> None:
        self._request(requests.add_watch(path), done)

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        self._request(requests.heartbeat(path, stamp), done)

    def drop(self) -> None:
        if self.state is ConnectionState.CONNECTED:
            self._handler.drop(self.number)

    def send_from_thread(self, ops: Sequence[WriteOp]) -> None:
        self._handler.submit(ANY_CONNECTION, requests.transact(ops, self._acl))

    def halt_from_thread(self, reason: str) -> None:
        self.halted = reason
        self._halt()

    # ---- in the Trio thread

    def _start(self) -> None:
        self._client.start_async()

    def _transmit(self, request: Request) -> None:
        self._handler.submit(self.number, request)

    def _transmit_close(self) -> None:
        # If the server stays silent, kazoo breaks the connection after two thirds of the session timeout.
        self._handler.submit(self.number, CloseInstance)

    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        self._inbox.post(call, first, second)

    def _failed(self, error: Exception) -> None:
        """Keep the first error and end the session, because the callback may have missed anything."""
        self._logger.error("a callback of the ZooKeeper connection failed", exc_info=error)
        self._error = self._error or error
        self._halt()

    def _on_thread_ended(self, _: None, __: None) -> None:
        self._handler.free()
        self._thread_ended.set()

    async def _stop(self) -> None:
        self._halt()
        if self._sink is None:
            self._handler.free()
            return
        # The loop notices within 0.1 s, or when its attempt to connect times out.
        with trio.move_on_after(self._connect_timeout + 1) as scope:
            await self._thread_ended.wait()
        if scope.cancelled_caught:
            self._logger.warning("the ZooKeeper thread has not ended, probably because of a name lookup; leaving it")

    # ---- in kazoo's thread

    def _halt(self) -> None:
        """Prevent any further connection or session. May be called from any thread."""
        halt(self._client)
        self._handler.close()

    def _overflowed(self, limit: int) -> None:
        reason = f"more than {limit >> 20} MiB from {self._handler.server} waited for the blocked event loop"
        self._logger.critical("%s; ending the session", reason)
        self.halt_from_thread(reason)

    def _listen(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            connected_at, number, server, session_timeout, session_id = self._handler.connected()
            connected_at += self._clock_offset
            established = Established(connected_at, number, server, session_timeout, session_id)
            self._inbox.post(self._set_state, ConnectionState.CONNECTED, established)
        elif state == KazooState.SUSPENDED:
            self._inbox.post(self._set_state, ConnectionState.DISCONNECTED, None)
        else:
            self._halt()
            self._inbox.post(self._set_state, _ENDS[self._client.client_state], None)

    def _happened(self, event: EventType, path: str) -> None:
        if not self._handler.closed and self._sink is not None:
            self._inbox.put(self._sink.on_event, event, path, len(path))

    def _answered(self, request: Request, error: int, zxid: int, frame: bytes, offset: int) -> None:
        result: Reply | RequestError
        try:
            if error:
                raise requests.request_error(error)
            result = Reply(request.decode(frame, offset), zxid)
        except RequestError as refused:
            result = refused
        else:
            if request.stamp is not None:
                self._prove(request.stamp)
        self._inbox.put(self._deliver, request, result, len(frame))


def _tls_context(options: Mapping[str, Any] | None) -> ssl.SSLContext | None:
    """Make a context of kazoo's TLS options, before connecting. Otherwise a missing file means endless reconnects."""
    if options is None or not options.get("use_ssl", True):
        return None
    known = {"use_ssl", "ca", "certfile", "keyfile", "keyfile_password", "verify_certs", "check_hostname"}
    if unknown := set(options) - known:
        raise ValueError(f"unknown TLS options: {sorted(unknown)}")
    context = ssl.create_default_context(cafile=options.get("ca"))
    context.check_hostname = options.get("check_hostname", False)
    context.verify_mode = ssl.CERT_REQUIRED if options.get("verify_certs", True) else ssl.CERT_NONE
    if certfile := options.get("certfile"):
        context.load_cert_chain(certfile, options.get("keyfile"), options.get("keyfile_password"))
    return context
