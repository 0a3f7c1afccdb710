"""Requests: a client's connection, and the requests made on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from metafora_trio import CoordinatorUnavailable, NamespaceNotFound
from metafora_trio.contract import AsyncBool
from metafora_trio_zookeeper._connection import (
    Check,
    Connection,
    ConnectionState,
    Done,
    ErrorCode,
    ReadResult,
    Reply,
    RequestError,
    WriteOp,
)
from metafora_trio_zookeeper._errors import translate
from metafora_trio_zookeeper._layout import Layout
from metafora_trio_zookeeper._replies import Burst, Slot, is_broken

__all__ = ["ATTEMPTS", "FreshReads", "Requests"]

ATTEMPTS = 10
"""The number of attempts at a change while other clients keep changing the same task."""

_LULL = 0.25
"""The part of the patience for which answers that are on their way may pause."""
_CHANGED = (ErrorCode.NODE_EXISTS, ErrorCode.NO_NODE, ErrorCode.BAD_VERSION)
"""The reasons why a write is not carried out if somebody else has changed what it is about."""

T = TypeVar("T")


class Requests:
    """The requests of a client, over all of its connections.

    Args:
        layout: the namespace.
        connection: the first connection. `ZooKeeperClient` opens it, and replaces it when its session has expired.
        hosts: for messages.
        patience: seconds after which a broker that does not answer is reported.

    Attributes:
        connection: the present connection.
        layout: as given.
    """

    def __init__(self, layout: Layout, connection: Connection, *, hosts: str, patience: float) -> None:
        self.connection = connection
        self.layout = layout
        self._hosts = hosts
        self._patience = patience
        self._up = AsyncBool()
        self._server = ""
        self._reason = "no connection was made"

    def on_state(self, state: ConnectionState) -> None:
        """Follow the connection's state."""
        if state is ConnectionState.CONNECTED:
            self._server = self.connection.server
            self._up.value = True
        else:
            self._reason = f"the connection is {state.value}"
            self._up.value = False

    def note_problem(self, problem: str) -> None:
        """Note why there is no connection, for the error of a request that is not answered in time."""
        self._reason = problem

    async def wait_up(self) -> None:
        """Wait until the client is connected. A checkpoint."""
        await self._up.wait_value(True)

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Limit the time that the body takes.

        Raises:
            CoordinatorUnavailable: ZooKeeper did not answer in time.
        """
        try:
            with trio.fail_at(self.deadline()):
                yield
        except trio.TooSlowError:
            raise self._no_answer() from None

    def deadline(self) -> float:
        """Return the time by which a request that is made now should be answered; see `finish`."""
        return trio.current_time() + self._patience

    async def finish(self, wait: Callable[[], Awaitable[None]], deadline: float) -> None:
        """Wait for answers. After the deadline, go on as long as they are on their way.

        A reply may take long on the link. Everything is answered in order, so whatever is received on a connection
        brings the answers nearer, even if it is a part of another reply. If the connection breaks after the deadline,
        there is no second attempt, since it could end in the same way.

        Args:
            wait: waits for answers to requests that were made on the present connection. It may be cancelled, and then
                called again.
            deadline: the time at which ZooKeeper's silence is reported.

        Raises:
            CoordinatorUnavailable: ZooKeeper did not answer in time.
        """
        connection = self.connection
        number, received = connection.number, connection.received
        while True:
            with trio.move_on_at(deadline) as scope:
                await wait()
            if not scope.cancelled_caught:
                return
            if (self.connection, connection.number) != (connection, number) or connection.received == received:
                raise self._no_answer()
            received = connection.received
            deadline = trio.current_time() + self._patience * _LULL

    def _no_answer(self) -> CoordinatorUnavailable:
        return CoordinatorUnavailable(
            f"no answer from ZooKeeper at {self._hosts} within {self._patience:g} s ({self._reason})"
        )

    def no_namespace(self) -> NamespaceNotFound:
        """Return the error to raise if the namespace does not exist."""
        return NamespaceNotFound(f"there is no namespace {self.layout.root} on ZooKeeper at {self._hosts}")

    def check_root(self, slot: Slot) -> None:
        """Check the layout record that was read.

        Raises:
            NamespaceNotFound: there is none.
            LayoutMismatch: it is another version's, or was made with other settings.
        """
        assert isinstance(slot.value, tuple)
        (root,) = slot.value
        if root is None or not root.data:
            raise self.no_namespace()
        self.layout.check_record(root.data)

    async def refused(self, error: RequestError) -> CoordinatorUnavailable:
        """Return the error to raise for a request that was refused."""
        return await translate(self._hosts, self._server, error)

    async def write(self, ops: Sequence[WriteOp], *, refusals: Collection[ErrorCode] = ()) -> RequestError | None:
        """Try a transaction once.

        Args:
            ops: the transaction.
            refusals: further reasons to return, if ZooKeeper says which operation it refuses. All others are raised.

        Returns:
            None if it was carried out. Otherwise the reason: a znode exists, does not exist or has changed; or
            CONNECTION_LOSS if its outcome is unknown. In that case a barrier has been passed, so that a read from now
            on shows the outcome.

        Raises:
            CoordinatorUnavailable: no answer, or a refusal.
        """
        deadline = self.deadline()
        await self.finish(self.wait_up, deadline)
        try:
            await self._ask(lambda done: self.connection.transact(ops, done), deadline)
        except RequestError as error:
            if is_broken(error):
                await self._pass_barrier(deadline)  # noqa: ASYNC120 - a cancel may discard the error
                return RequestError(ErrorCode.CONNECTION_LOSS)
            if error.code not in _CHANGED and (error.index is None or error.code not in refusals):
                raise await self.refused(error) from error
            return error
        return None

    async def _ask(self, send: Callable[[Done], None], deadline: float) -> Reply:
        """Send one request and wait for its reply, as `ask` and `finish` do."""
        burst = Burst()
        slot = burst.slot()
        send(slot)
        await self.finish(burst.wait, deadline)
        assert slot.reply is not None
        return slot.reply

    async def _pass_barrier(self, deadline: float) -> None:
        while True:
            await self.finish(self.wait_up, deadline)
            try:
                await self._ask(lambda done: self.connection.transact([Check(self.layout.root)], done), deadline)
            except RequestError as error:
                if error.code is ErrorCode.NO_NODE:
                    return  # a refusal is a transaction, too
                if not is_broken(error):
                    raise await self.refused(error) from error
            else:
                return

    async def read(self, paths: Iterable[str]) -> list[ReadResult | None]:
        """Read up to `MAX_OPS` znodes. What this connection has not been shown may be missing: see `FreshReads`."""
        wanted, deadline = list(paths), self.deadline()
        while True:
            await self.finish(self.wait_up, deadline)
            try:
                reply = await self._ask(lambda done: self.connection.read(wanted, done), deadline)
            except RequestError as error:
                if not is_broken(error):
                    raise await self.refused(error) from error
            else:
                return await self._permitted(reply.value)

    async def _permitted(self, found: Iterable[ReadResult | RequestError | None]) -> list[ReadResult | None]:
        """Return what was read, or raise `CoordinatorUnavailable` if reading any of it was refused."""
        results = []
        for result in found:
            if isinstance(result, RequestError):
                raise await self.refused(result) from result
            results.append(result)
        return results


class FreshReads:
    """Reads that show everything that any client or node had written before this object was made.

    A server may lag behind the others. So the first reads on each connection are sent right behind a barrier, a quorum
    write: a server answers in order, and answers the write only when it has caught up with it. A `sync` would prove
    less, and a pipelined barrier costs no round trip.

    The barrier comes with a look at the layout record, since the namespace may have been removed, and made again, at
    any time.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._passed: tuple[Connection, int] | None = None

    async def read(self, send: Callable[[Connection, Burst], T]) -> T:
        """Send reads until all are answered on one connection.

        Args:
            send: sends the reads as parts of the burst. It is called again when the connection has broken.

        Returns:
            What the last call of `send` returned.

        Raises:
            NamespaceNotFound: the namespace does not exist.
            CoordinatorUnavailable: no answer, or a refusal.
        """
        requests = self._requests
        deadline = requests.deadline()
        while True:
            await requests.finish(requests.wait_up, deadline)
            connection = requests.connection
            burst, here = Burst(), (connection, connection.number)
            root = None
            if self._passed != here:
                connection.transact([Check(requests.layout.root)], burst.slot())
                root = burst.slot()
                connection.read([requests.layout.root], root)
            sent = send(connection, burst)
            try:
                await requests.finish(burst.wait, deadline)
            except RequestError as error:
                if error.code is ErrorCode.NO_NODE:  # the barrier or a list found no namespace
                    raise requests.no_namespace() from error
                if not is_broken(error):
                    raise await requests.refused(error) from error
                continue
            if root is not None:
                requests.check_root(root)
                self._passed = here
            return sent
