"""A session while the event loop is blocked, on a real server: it stays or is given up. The tests block the loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from kazoo.client import KazooClient

from metafora_trio import NodeInfo, SessionLost
from metafora_trio.testing.conformance import eventually
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, EventType, Reply, SetData
from metafora_trio_zookeeper._kazoo.inbox import Inbox
from metafora_trio_zookeeper.testing.real import Ensemble
from tests.support.processes import wait_until
from tests.support.zookeeper.connections import CLOSED, CONNECTED, DISCONNECTED, ask, connect
from tests.support.zookeeper.sessions import connection_of


@pytest.fixture
def kazoo(standalone: Ensemble) -> Iterator[KazooClient]:
    """A client that works while the event loop is blocked."""
    client = KazooClient(standalone.hosts)
    client.start()
    yield client
    client.stop()
    client.close()


def in_thread(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in another thread, and block the loop until it returns."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def data_of(kazoo: KazooClient, path: str) -> bytes:
    found = kazoo.get(path)
    assert found is not None
    data: bytes = found[0]
    return data


class TestInbox:
    async def test_nothing_that_was_put_after_a_gap_is_delivered(self) -> None:
        log: list[str] = []
        inbox = Inbox(lambda error: None, limit=1000, on_overflow=lambda: log.append("overflow"))

        def deliver(what: str, _: None) -> None:
            log.append(what)

        inbox.put(deliver, "first", None, 500)
        inbox.put(deliver, "too much", None, 500)
        inbox.put(deliver, "small", None, 0)
        inbox.put(deliver, "too much again", None, 500)
        inbox.post(deliver, "a state", None)
        await trio.testing.wait_all_tasks_blocked()
        assert log == ["overflow", "first", "a state"]


class TestConnection:
    async def test_what_waits_is_bounded_and_the_end_comes_behind_it(
        self, standalone: Ensemble, namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The replies that fit are delivered, the other requests fail, and nothing that came later is seen."""
        root = f"/{namespace}"
        async with connect(standalone.hosts, max_waiting=1 << 20) as (connection, recorder):
            await ask(connection.transact, [Create(root, b"x" * 300_000)])
            await ask(connection.add_watch, root)
            recorder.log.clear()
            for _ in range(10):
                connection.read([root], lambda answer: recorder.add(str(getattr(answer, "code", "record"))))
            connection.transact([Create(f"{root}/later")], lambda answer: recorder.add(str(answer)))
            wait_until(lambda: connection.halted)  # blocks, because the loop must not run
            await recorder.wait(lambda: connection.state is CLOSED)
            lost = ["ErrorCode.CONNECTION_LOSS"] * 7 + ["connection loss"]
            assert [entry for entry in recorder.log if entry is not DISCONNECTED] == ["record"] * 3 + lost + [CLOSED]
            (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
            assert f"1 MiB from {standalone.hosts} waited for the blocked event loop" in record.getMessage()

    async def test_a_frame_that_is_larger_than_the_bound_alone_passes(
        self, standalone: Ensemble, namespace: str
    ) -> None:
        async with connect(standalone.hosts, max_waiting=1000) as (connection, _):
            await ask(connection.transact, [Create(f"/{namespace}", b"x" * 10_000)])
            (record,) = await ask(connection.read, [f"/{namespace}"])
            assert len(record.data) == 10_000

    async def test_what_has_been_delivered_does_not_count(self, standalone: Ensemble, namespace: str) -> None:
        async with connect(standalone.hosts, max_waiting=25_000) as (connection, _):
            await ask(connection.transact, [Create(f"/{namespace}", b"x" * 10_000)])
            for _ in range(10):
                await ask(connection.read, [f"/{namespace}"])
            assert connection.state is CONNECTED

    async def test_a_transaction_from_a_thread(self, standalone: Ensemble, namespace: str, kazoo: KazooClient) -> None:
        root = f"/{namespace}"
        async with connect(standalone.hosts) as (connection, recorder):
            await ask(connection.transact, [Create(root)])
            await ask(connection.add_watch, root)
            recorder.log.clear()
            in_thread(connection.send_from_thread, [SetData(root, b"from a thread")])
            wait_until(lambda: data_of(kazoo, root) == b"from a thread")
            await ask(connection.children, root)
            assert recorder.log == [(EventType.CHANGED, root)]

    async def test_a_transaction_from_a_thread_while_disconnected(
        self, standalone: Ensemble, namespace: str, kazoo: KazooClient
    ) -> None:
        """It goes out on the next connection, although the loop does not know of that yet."""
        root = f"/{namespace}"
        async with connect(standalone.hosts) as (connection, _):
            await ask(connection.transact, [Create(root)])
            connection.drop()
            wait_until(lambda: connection._handler.number > 1 or connection.server == "")
            in_thread(connection.send_from_thread, [SetData(root, b"from a thread")])
            wait_until(lambda: data_of(kazoo, root) == b"from a thread")
            assert connection.number == 1

    async def test_halted_from_a_thread(self, standalone: Ensemble) -> None:
        async with connect(standalone.hosts) as (connection, recorder):
            connection.children("/", lambda answer: recorder.add(isinstance(answer, Reply)))
            wait_until(lambda: connection.backlog)
            in_thread(connection.halt_from_thread, "a reason")
            assert connection.halted == "a reason"
            await recorder.wait(lambda: connection.state is CLOSED)
            assert [entry for entry in recorder.log if entry is not DISCONNECTED] == [CONNECTED, True, CLOSED]


class TestSession:
    async def test_it_is_reported_until_the_loop_runs_again(
        self, standalone: Ensemble, namespace: str, kazoo: KazooClient
    ) -> None:
        coordinator = ZooKeeperCoordinator(standalone.hosts, namespace=f"/{namespace}", session_timeout=3.0)
        notices = tuple(f"notice {n}" for n in range(8))
        async with coordinator.open_session(NodeInfo("a", notices=notices)) as session:
            path, me = f"/{namespace}/nodes/{session.node.identity}", session.node.identity

            def stored() -> tuple[str, ...]:
                return NodeInfo.decode(me, data_of(kazoo, path)).notices

            assert stored() == notices
            in_thread(session.report_blocked, 1_700_000_000.9)
            blocked = "its event loop has been blocked since 2023-11-14T22:13:20+00:00"
            wait_until(lambda: stored() == (blocked, *notices[:7]))
            assert session.node.notices == notices
            await eventually(session, lambda _: stored() == notices)

    async def test_an_abandoned_session_expires(self, standalone: Ensemble, namespace: str, kazoo: KazooClient) -> None:
        coordinator = ZooKeeperCoordinator(standalone.hosts, namespace=f"/{namespace}", session_timeout=2.0)

        async def life() -> None:
            async with coordinator.open_session(NodeInfo("a")) as session:
                path = f"/{namespace}/nodes/{session.node.identity}"
                in_thread(session.abandon, "blocked for too long")
                wait_until(lambda: kazoo.exists(path) is None)
                assert connection_of(session).state is CONNECTED  # the loop has not run
                await trio.sleep_forever()

        with pytest.raises(SessionLost, match="blocked for too long"):
            await life()
