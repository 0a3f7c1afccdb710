"""The life of one session, over a list as transport: no server, no thread."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from metafora_trio_zookeeper._connection import (
    ConnectionState,
    ErrorCode,
    EventType,
    Reply,
    RequestError,
)
from metafora_trio_zookeeper._connection_base import ConnectionBase, Established

CONNECTED, DISCONNECTED = ConnectionState.CONNECTED, ConnectionState.DISCONNECTED
EXPIRED, AUTH_FAILED, CLOSED = ConnectionState.EXPIRED, ConnectionState.AUTH_FAILED, ConnectionState.CLOSED
LOSS = ErrorCode.CONNECTION_LOSS
TIMEOUT = 4.0


@dataclass(eq=False)
class Request:
    name: str


class ListConnection(ConnectionBase[Request]):
    """A connection that sends into `sent` and is driven by the test. `log` gets its states and results in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[int, str]] = []
        self.log: list[Any] = []
        self.posted: deque[Callable[[], None]] = deque()
        self.stopped = False

    def connect(self) -> None:
        number = self.number + 1
        self._set_state(CONNECTED, Established(trio.current_time(), number, f"zk{number}:2181", TIMEOUT, 7))

    def enter(self, state: ConnectionState) -> None:
        self._set_state(state)

    def send(self, name: str, then: Callable[[], object] = lambda: None) -> Request:
        def done(answer: Reply | RequestError) -> None:
            self.log.append((name, answer.value if isinstance(answer, Reply) else answer.code))
            then()

        request = Request(name)
        self._request(request, done)
        return request

    def answer(self, request: Request, value: str) -> None:
        self._deliver(request, Reply(value, 1))

    def deliver_posted(self) -> None:
        while self.posted:
            self.posted.popleft()()

    def on_state(self, state: ConnectionState) -> None:
        self.log.append(state)

    def on_event(self, event: EventType, path: str) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        self.log.append("start")

    async def _stop(self) -> None:
        self.stopped = True
        await trio.lowlevel.checkpoint()

    def _transmit(self, request: Request) -> None:
        self.sent.append((self.number, request.name))

    def _transmit_close(self) -> None:
        self.sent.append((self.number, "close"))

    def _post(self, call: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        self.posted.append(lambda: call(first, second))


@pytest.fixture
async def connection() -> ListConnection:
    connection = ListConnection()
    await connection.open(connection)
    connection.connect()
    connection.log.clear()
    return connection


class TestOpening:
    async def test_before_it_is_connected(self) -> None:
        connection = ListConnection()
        assert (connection.state, connection.number, connection.session_id) == (DISCONNECTED, 0, 0)
        assert (connection.session_timeout, connection.server) == (0.0, "")
        assert connection.proof == connection.connected_at == -math.inf

    async def test_it_starts_once(self) -> None:
        connection = ListConnection()
        await connection.open(connection)
        with pytest.raises(RuntimeError, match="already opened"):
            await connection.open(connection)
        assert connection.log == ["start"]

    async def test_the_attributes_are_set_before_the_sink_is_notified(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        seen: list[object] = []

        class Looking(ListConnection):
            def on_state(self, state: ConnectionState) -> None:
                seen.append((self.state, self.number, self.server, self.session_timeout, self.session_id))
                seen.append(self.connected_at)

        connection = Looking()
        await connection.open(connection)
        await trio.sleep(3)
        connection.connect()
        assert seen == [(CONNECTED, 1, "zk1:2181", TIMEOUT, 7), trio.current_time()]


class TestRequests:
    async def test_a_reply_is_delivered_once(self, connection: ListConnection) -> None:
        request = connection.send("a")
        connection.answer(request, "yes")
        connection.answer(request, "again")
        connection.enter(DISCONNECTED)
        assert connection.log == [("a", "yes"), DISCONNECTED]

    async def test_while_disconnected_it_fails_in_its_turn_and_is_not_sent(self, connection: ListConnection) -> None:
        connection.enter(DISCONNECTED)
        connection.send("a")
        assert connection.log == [DISCONNECTED]  # never from inside the call
        connection.connect()
        connection.deliver_posted()
        assert connection.log == [DISCONNECTED, CONNECTED, ("a", LOSS)]
        assert connection.sent == []

    async def test_a_loss_fails_all_once_and_in_order_before_the_sink_is_notified(
        self, connection: ListConnection
    ) -> None:
        first, second, third = (connection.send(name) for name in "abc")
        connection.answer(second, "yes")
        connection.enter(DISCONNECTED)
        assert connection.log == [("b", "yes"), ("a", LOSS), ("c", LOSS), DISCONNECTED]
        assert connection.server == ""
        connection.connect()
        for late in (first, third):
            connection.answer(late, "of the last connection")
        assert connection.log[4:] == [CONNECTED]

    async def test_a_request_made_by_a_failing_one_is_refused_not_lost(self, connection: ListConnection) -> None:
        connection.send("a", then=lambda: connection.send("b"))
        connection.enter(DISCONNECTED)
        connection.deliver_posted()
        assert connection.log == [("a", LOSS), DISCONNECTED, ("b", LOSS)]
        assert connection.sent == [(1, "a")]

    async def test_several_requests_have_one_answer(self, connection: ListConnection) -> None:
        """A znode that does not exist or is refused does not fail the others. A broken connection does, once the last
        reply has come."""
        refused = RequestError(ErrorCode.NO_AUTH)
        for last in (RequestError(LOSS), Reply("d", 7)):
            connection.log.clear()
            a, b, c, d = (Request(name) for name in "abcd")
            connection._request_each([a, b, c, d], connection.log.append)
            connection.answer(b, "b")
            connection._deliver(a, RequestError(ErrorCode.NO_NODE))
            connection._deliver(c, refused)
            assert connection.log == []
            connection._deliver(d, last)
            assert connection.log == [last if last != Reply("d", 7) else Reply((None, "b", refused, "d"), 7)]

    async def test_no_requests_have_an_answer_too(self, connection: ListConnection) -> None:
        connection._request_each([], connection.log.append)
        assert connection.log == []
        connection.deliver_posted()
        assert connection.log == [Reply((), 0)]

    async def test_a_loss_fails_several_requests_once(self, connection: ListConnection) -> None:
        errors: list[Reply | RequestError] = []
        requests = [Request(name) for name in "abc"]
        connection._request_each(requests, errors.append)
        connection.answer(requests[1], "b")
        connection.enter(DISCONNECTED)
        connection._request_each(requests, errors.append)
        connection.deliver_posted()
        assert [error.code for error in errors if isinstance(error, RequestError)] == [LOSS, LOSS]

    @pytest.mark.parametrize("state, code", [(EXPIRED, ErrorCode.SESSION_EXPIRED), (AUTH_FAILED, LOSS)])
    async def test_how_requests_fail_at_the_end(
        self, connection: ListConnection, state: ConnectionState, code: ErrorCode
    ) -> None:
        connection.send("before")
        connection.enter(state)
        connection.send("after")
        connection.deliver_posted()
        assert connection.log == [("before", code), state, ("after", code)]

    async def test_the_exception_of_a_callback_propagates(self, connection: ListConnection) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        connection.send("a", then=fail)
        with pytest.raises(ZeroDivisionError):
            connection.enter(DISCONNECTED)

    async def test_an_exception_that_is_kept_is_raised_by_aclose(self) -> None:
        class Keeping(ListConnection):
            def _failed(self, error: Exception) -> None:
                self._error = self._error or error

        def fail() -> None:
            raise ZeroDivisionError

        connection = Keeping()
        await connection.open(connection)
        connection.connect()
        connection.log.clear()
        connection.send("a", then=fail)
        connection.send("b")
        connection.enter(EXPIRED)
        assert connection.log == [("a", ErrorCode.SESSION_EXPIRED), ("b", ErrorCode.SESSION_EXPIRED), EXPIRED]
        with pytest.raises(ZeroDivisionError):
            await connection.aclose()


async def test_the_largest_proof_counts(connection: ListConnection) -> None:
    """Replies of an earlier connection may be read late."""
    proofs = []
    for stamp in (3.0, 5.0, 4.0):
        connection._prove(stamp)
        proofs.append(connection.proof)
    assert proofs == [3.0, 5.0, 5.0]


@pytest.mark.parametrize("last", [EXPIRED, AUTH_FAILED, CLOSED])
async def test_a_final_state_is_the_last(connection: ListConnection, last: ConnectionState) -> None:
    connection.enter(last)
    connection.connect()
    connection.enter(DISCONNECTED)
    await connection.aclose()
    assert (connection.state, connection.number, connection.log) == (last, 1, [last])
    assert connection.stopped
    assert connection.sent == []


class TestClosing:
    async def test_what_was_sent_before_is_answered_and_what_comes_after_is_refused(
        self, connection: ListConnection
    ) -> None:
        request = connection.send("before")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            await trio.testing.wait_all_tasks_blocked()
            connection.send("after")
            connection.deliver_posted()
            connection.answer(request, "yes")
            connection.enter(CLOSED)
        assert connection.sent == [(1, "before"), (1, "close")]
        assert connection.log == [("after", LOSS), ("before", "yes"), CLOSED]

    async def test_the_server_is_asked_again_on_the_next_connection(self, connection: ListConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            await trio.testing.wait_all_tasks_blocked()
            connection.enter(DISCONNECTED)
            await trio.testing.wait_all_tasks_blocked()
            connection.connect()
            await trio.testing.wait_all_tasks_blocked()
            connection.enter(CLOSED)
        assert connection.sent == [(1, "close"), (2, "close")]

    async def test_a_silent_server_is_given_up_after_the_session_timeout(
        self, connection: ListConnection, autojump_clock: trio.testing.MockClock
    ) -> None:
        """A cancellation neither cuts the close short nor leaves a request without a result."""
        connection.send("a")
        began = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.aclose()
        assert trio.current_time() - began == pytest.approx(TIMEOUT)
        assert connection.stopped
        assert connection.log == [("a", LOSS), CLOSED]

    async def test_one_that_never_connected_sends_no_close(self) -> None:
        connection = ListConnection()
        await connection.open(connection)
        await connection.aclose()
        assert (connection.sent, connection.log) == ([], ["start", CLOSED])

    async def test_a_second_call_waits_for_the_first(self, connection: ListConnection) -> None:
        ended: list[str] = []

        async def close(name: str) -> None:
            await connection.aclose()
            ended.append(name)

        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(close, name)
            await trio.testing.wait_all_tasks_blocked()
            assert ended == []
            connection.enter(CLOSED)
        assert sorted(ended) == ["a", "b"]
        assert connection.sent == [(1, "close")]
