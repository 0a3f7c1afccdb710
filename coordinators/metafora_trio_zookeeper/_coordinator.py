"""ZooKeeperCoordinator: sessions and clients on a ZooKeeper ensemble."""

from __future__ import annotations

import math
import random
import re
import string
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from metafora_trio import Coordinator, CoordinatorUnavailable, NodeInfo, SessionLost
from metafora_trio.contract import MIN_SESSION_TIMEOUT, Diagnosis, check_node_name, open_service_nursery
from metafora_trio_zookeeper._admin.diagnose import diagnose
from metafora_trio_zookeeper._admin.removal import remove_namespace
from metafora_trio_zookeeper._client.client import ZooKeeperClient
from metafora_trio_zookeeper._session.heartbeat import suspended_seconds
from metafora_trio_zookeeper._session.record_sizes import RecordSizes
from metafora_trio_zookeeper._session.session import ZooKeeperSession

from ._connection import Connection, RequestError
from ._errors import translate
from ._layout import Layout, describe_acl

__all__ = ["ZooKeeperCoordinator"]

_MARK = string.ascii_lowercase + string.digits
_MARK_LENGTH = 10
_DAY = 86_400.0
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class ZooKeeperCoordinator(Coordinator):
    """A cluster on a ZooKeeper ensemble (3.6 or newer).

    Args:
        hosts: `host:port,host:port,...`. The port is 2181 if none is given.
        namespace: the path under which everything is kept. The first node or the first submit creates it.
        session_timeout: T, in seconds: how long the servers keep a silent node's claims. The servers clamp it (by
            default to 2 to 20 ticks) and must grant at least 2 s; give all of them the same limits. The tasks of a node
            that is cut off are cancelled after T/2; a dead node is replaced after T. Use 10 s or more for many nodes.
        connect_timeout: seconds after which unreachable servers are reported. A client waits longer for an answer while
            something arrives, as on a slow link.
        auth: (scheme, credential) pairs, such as ("digest", "user:password").
        acl: kazoo's ACLs for every znode created; None leaves them open to the world. All nodes must use the one with
            which the namespace was made, since nodes that cannot read each other's znodes do not see each other.
        sasl: kazoo's `sasl_options`.
        tls: kazoo's TLS options: `ca`, `certfile`, `keyfile`, `keyfile_password`, `verify_certs`
            (True by default) and `check_hostname` (False by default).
        buckets: the number of directories that tasks are hashed into. A namespace keeps its first number.
        connect: makes a connection; pass it to use a simulated ensemble instead of kazoo.
        rng: for session marks and jitter.
        suspended: returns how many seconds the machine has been suspended so far.
        now: returns the date and time, in seconds since 1970.
        watched: whether a thread may watch the lease, see `Session.watched`; false on virtual time.

    Raises:
        ValueError: an argument breaks a rule; the message names it. `tls` and `sasl` are only checked on the first
            connection.
    """

    def __init__(
        self,
        hosts: str,
        *,
        namespace: str = "/metafora",
        session_timeout: float = 10.0,
        connect_timeout: float = 10.0,
        auth: Sequence[tuple[str, str]] = (),
        acl: Sequence[Any] | None = None,
        sasl: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
        buckets: int = 64,
        connect: Callable[[], Connection] | None = None,
        rng: random.Random | None = None,
        suspended: Callable[[], float] = suspended_seconds,
        now: Callable[[], float] = time.time,
        watched: bool = True,
    ) -> None:
        self.hosts: str = _check_hosts(hosts)
        if not MIN_SESSION_TIMEOUT <= session_timeout <= _DAY:
            raise ValueError(
                f"session_timeout is {session_timeout:g} s; it must be from {MIN_SESSION_TIMEOUT:g} s to a day"
            )
        if not 0 < connect_timeout < math.inf:
            raise ValueError(f"connect_timeout is {connect_timeout:g} s; it must be positive and finite")
        self.session_timeout = session_timeout
        self.connect_timeout = connect_timeout
        self._namespace = Layout(namespace, buckets).root
        self._buckets = buckets
        self._auth = tuple(auth)
        self._acl = acl
        self._sasl = sasl
        self._tls = tls
        self._connect = connect or self._connect_kazoo
        self._rng = rng or random.SystemRandom()
        self._sizes = RecordSizes()
        self._suspended = suspended
        self._now = now
        self._watched = watched

    @property
    def namespace(self) -> str:
        """The path under which everything is kept."""
        return self._namespace

    def _layout(self) -> Layout:
        """Make a layout for one session, client or tool, which learns the namespace's generation by itself."""
        return Layout(self._namespace, self._buckets, describe_acl(self._acl))

    def _connect_kazoo(self) -> Connection:
        # Imported here because kazoo takes longer to import than everything else, and only a connection needs it.
        from metafora_trio_zookeeper._kazoo.connection import KazooConnection

        try:
            return KazooConnection(
                self.hosts,
                session_timeout=self.session_timeout,
                auth=self._auth,
                acl=self._acl,
                sasl=self._sasl,
                tls=self._tls,
            )
        except OSError as error:  # such as a certificate file that is being replaced; a later join may succeed
            raise CoordinatorUnavailable(f"cannot connect to ZooKeeper at {self.hosts}: {error}") from error

    @asynccontextmanager
    async def open_session(self, node: NodeInfo) -> AsyncGenerator[ZooKeeperSession]:
        check_node_name(node.identity)
        mark = "".join(self._rng.choices(_MARK, k=_MARK_LENGTH))
        node = replace(node, identity=f"{node.identity}.{mark}", since=node.since or self._now())
        connection = self._connect()
        session = ZooKeeperSession(
            connection,
            self._layout(),
            node,
            asked_timeout=self.session_timeout,
            rng=self._rng,
            sizes=self._sizes,
            suspended=self._suspended,
            now=self._now,
            watched=self._watched,
        )
        joined = False
        try:
            await connection.open(session)
            with session.scope:
                async with open_service_nursery() as nursery:
                    nursery.start_soon(session.serve)  # noqa: ASYNC113 - joining waits for it
                    await self._join(session)
                    joined = True
                    try:
                        yield session
                    finally:
                        await session.flush()  # noqa: ASYNC102 - shielded and bounded within
            if session.scope.cancelled_caught:
                session.end("the lease has run out")
        finally:
            session.close()
            await connection.aclose()
        if session.lost is not None and joined:
            raise session.lost
        if session.lost is not None:
            raise self._cannot_join(session.lost) from session.lost

    async def _join(self, session: ZooKeeperSession) -> None:
        try:
            with trio.fail_after(self.connect_timeout):
                await session.wait_joined()
        except trio.TooSlowError:
            raise CoordinatorUnavailable(
                f"cannot join through ZooKeeper at {self.hosts} within {self.connect_timeout:g} s: {session.progress}"
            ) from None
        except RequestError as error:
            raise await translate(self.hosts, session.server, error) from error
        except SessionLost as error:
            raise self._cannot_join(error) from error

    def _cannot_join(self, lost: SessionLost) -> CoordinatorUnavailable:
        return CoordinatorUnavailable(f"cannot join through ZooKeeper at {self.hosts}: {lost}")

    @asynccontextmanager
    async def open_client(self) -> AsyncGenerator[ZooKeeperClient]:
        client = ZooKeeperClient(
            self._connect,
            self._layout(),
            hosts=self.hosts,
            patience=self.connect_timeout,
            rng=self._rng,
            now=self._now,
        )
        async with open_service_nursery() as nursery:
            nursery.start_soon(client.serve)  # noqa: ASYNC113 - prepare() waits for it
            await client.prepare()
            yield client

    # ---- for operators (`Diagnosable` and `Removable`)

    async def diagnose(self) -> Diagnosis:
        """See `Diagnosable`: checks the servers, the session, the clock and the namespace."""
        return await diagnose(
            self._connect,
            self._layout(),
            hosts=self.hosts,
            asked_timeout=self.session_timeout,
            patience=self.connect_timeout,
        )

    async def remove(self) -> None:
        """See `Removable`: removes the namespace. Waits up to `connect_timeout` for the last node to go."""
        await remove_namespace(self._connect, self._layout(), hosts=self.hosts, patience=self.connect_timeout)


def _check_hosts(hosts: str) -> str:
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None or not 1 <= int(match[2] or 2181) <= 65535:
            raise ValueError(f"hosts {hosts!r}: {host!r} is not 'host:port' (pass a chroot as the namespace)")
    return hosts
