"""The connection while the network and the servers fail."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from kazoo.client import KazooClient

from metafora_trio_zookeeper._connection import Create, Delete, ErrorCode, Reply, RequestError
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from metafora_trio_zookeeper.testing.real import Ensemble, ProxyLoop, TcpProxy, free_ports
from tests.support.processes import wait_until
from tests.support.zookeeper.connections import (
    CLOSED,
    CONNECTED,
    DISCONNECTED,
    EXPIRED,
    PATIENCE,
    Recorder,
    ask,
    connect,
    refused,
)

LOSS = (ErrorCode.CONNECTION_LOSS, None)


@pytest.fixture
def proxy(proxies: ProxyLoop, standalone: Ensemble) -> Iterator[TcpProxy]:
    """A proxy between a client and the only server."""
    proxy = proxies.open("127.0.0.1", standalone.servers[0].client_port)
    yield proxy
    proxy.close()


async def test_requests_while_disconnected(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    """20,000 requests do not block the caller and are never carried out; each is refused once."""
    root = f"/{namespace}"
    async with connect(proxy.address) as (connection, recorder):
        session_id = connection.session_id
        proxy.cut(refuse=True)
        proxy.drop_all()
        await recorder.wait(lambda: connection.state is DISCONNECTED)
        assert connection.server == ""
        answers: list[Reply | RequestError] = []
        before = time.monotonic()
        for _ in range(20_000):
            connection.transact([Create(root)], answers.append)
        assert time.monotonic() - before < 2.0
        assert answers == []
        assert await refused(connection.children, "/") == LOSS
        assert {(error.code, error.index) for error in answers if isinstance(error, RequestError)} == {LOSS}
        assert len(answers) == 20_000
        proxy.heal()
        await recorder.wait(lambda: connection.state is CONNECTED)
        assert (connection.number, connection.session_id) == (2, session_id)
        assert namespace not in await ask(connection.children, "/")
        assert recorder.log == [CONNECTED, DISCONNECTED, CONNECTED]


async def test_requests_that_missed_their_connection(proxy: TcpProxy, namespace: str) -> None:
    """Requests made before Trio was notified of the break are not sent on the next connection."""
    async with connect(proxy.address) as (connection, recorder):
        proxy.drop_all()
        wait_until(lambda: connection._handler.number > 1)  # blocks, because Trio must not be notified yet
        assert (connection.state, connection.number) == (CONNECTED, 1)
        assert await refused(connection.transact, [Create(f"/{namespace}")]) == LOSS
        await recorder.wait(lambda: connection.number == 2)
        assert namespace not in await ask(connection.children, "/")
        assert recorder.log == [CONNECTED, DISCONNECTED, CONNECTED]


async def test_a_reply_is_seen_to_arrive_before_it_is_whole(proxy: TcpProxy, namespace: str) -> None:
    root = f"/{namespace}"
    async with connect(proxy.address) as (connection, recorder):
        await ask(connection.transact, [Create(root, b"x" * 100_000)])
        proxy.limit(2_000_000)
        before = connection.received
        connection.read([root] * 10, lambda answer: recorder.add(isinstance(answer, Reply)))
        wait_until(lambda: connection.received - before > 200_000)  # blocks, but the thread reads on
        assert connection.backlog == 0
        seen = connection.received
        wait_until(lambda: connection.received > seen)
        await recorder.wait(lambda: recorder.log[-1] is True)
        assert connection.received - before > 1_000_000
        await ask(connection.transact, [Delete(root)])


async def test_a_long_reply_does_not_cost_the_connection(proxy: TcpProxy, namespace: str) -> None:
    """The answer to kazoo's ping waits behind it, twice as long as kazoo waits for that answer."""
    root = f"/{namespace}"
    async with connect(proxy.address, session_timeout=2.0) as (connection, recorder):
        await ask(connection.transact, [Create(root, b"x" * 600_000)])
        proxy.limit(250_000)
        connection.read([root], lambda answer: recorder.add(isinstance(answer, Reply)))
        await recorder.wait(lambda: recorder.log[-1] is not CONNECTED)
        assert recorder.log == [CONNECTED, True]
        proxy.limit(math.inf)
        await ask(connection.transact, [Delete(root)])


async def test_lost_reply(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    """The write takes effect but its request fails, before the sink is notified, and never succeeds later."""
    async with connect(standalone.hosts) as (other, _), connect(proxy.address) as (connection, recorder):
        session_id = connection.session_id
        proxy.hold_replies()
        connection.transact([Create(f"/{namespace}")], lambda answer: recorder.add(("answer", str(answer))))
        with trio.fail_after(PATIENCE):
            while namespace not in await ask(other.children, "/"):
                pass
        proxy.drop_all()
        await recorder.wait(lambda: connection.state is DISCONNECTED)
        proxy.heal()
        await recorder.wait(lambda: connection.state is CONNECTED)
        assert connection.session_id == session_id
        assert recorder.log == [CONNECTED, ("answer", "connection loss"), DISCONNECTED, CONNECTED]


async def test_drop_keeps_the_session_and_takes_another_server(ensemble: Ensemble, namespace: str) -> None:
    root = f"/{namespace}"
    async with connect(ensemble.hosts) as (connection, recorder):
        await ask(connection.transact, [Create(root), Create(f"{root}/e", ephemeral=True)])
        for number in range(1, 6):
            assert connection.number == number
            server, session_id = connection.server, connection.session_id
            connection.drop()
            await recorder.wait(lambda: connection.number > number)  # noqa: B023  # waited for at once
            assert recorder.log[-2:] == [DISCONNECTED, CONNECTED]
            assert connection.session_id == session_id
            assert connection.server != server
            assert await ask(connection.children, root) == ["e"]


async def test_drop_with_a_single_server(proxy: TcpProxy) -> None:
    """There is no other server, so it reconnects to the same one."""
    async with connect(proxy.address) as (connection, recorder):
        connection.drop()
        await recorder.wait(lambda: connection.number == 2)
        connection.drop()
        connection.drop()
        await recorder.wait(lambda: connection.number == 3)


async def test_expired_is_final(standalone: Ensemble) -> None:
    """Nothing of kazoo remains, and there is no second session."""
    async with connect(standalone.hosts) as (connection, recorder):
        session_id, password = connection._client.client_id or (0, b"")
        assert session_id == connection.session_id
        connection.children("/", lambda answer: recorder.add("reply"))
        # Any client that knows the password can close a session, which is the quickest way to make it expire.
        killer = KazooClient(standalone.hosts, client_id=(session_id, password))
        await trio.to_thread.run_sync(killer.start)
        await trio.to_thread.run_sync(killer.stop)
        killer.close()
        await recorder.wait(lambda: connection.state is EXPIRED)
        assert await refused(connection.children, "/") == (ErrorCode.SESSION_EXPIRED, None)
        with trio.fail_after(PATIENCE):
            await connection._thread_ended.wait()
        assert recorder.log == [CONNECTED, "reply", DISCONNECTED, EXPIRED]
        assert (connection.number, connection.session_id) == (1, session_id)
    assert recorder.log[-1] is EXPIRED


async def test_expired_while_away(proxy: TcpProxy) -> None:
    async with connect(proxy.address, session_timeout=0.4) as (connection, recorder):
        proxy.cut(refuse=True)
        proxy.drop_all()
        await recorder.wait(lambda: connection.state is DISCONNECTED)
        await trio.sleep(0.9)
        proxy.heal()
        await recorder.wait(lambda: connection.state is EXPIRED)
        assert recorder.log == [CONNECTED, DISCONNECTED, EXPIRED]


async def test_outstanding_requests_fail_once_and_in_order(proxy: TcpProxy) -> None:
    async with connect(proxy.address) as (connection, recorder):
        proxy.cut()

        def heartbeat(number: int) -> None:
            connection.heartbeat("/", number, lambda answer: recorder.add((number, str(answer))))

        for number in range(1000):
            heartbeat(number)
        await trio.sleep(0.05)
        connection.drop()
        await recorder.wait(lambda: connection.state is DISCONNECTED)
        losses = [(number, "connection loss") for number in range(1000)]
        assert recorder.log == [CONNECTED, *losses, DISCONNECTED]
        assert connection.proof == float("-inf")
        proxy.heal()
        await recorder.wait(lambda: connection.state is CONNECTED)
        assert len(recorder.log) == 1003


async def test_aclose_fails_what_is_outstanding(proxy: TcpProxy) -> None:
    """It takes at most about one session timeout when no server answers; the state CLOSED comes last."""
    async with connect(proxy.address, session_timeout=0.8) as (connection, recorder):
        proxy.cut()
        connection.children("/", lambda answer: recorder.add(str(answer)))
        before = trio.current_time()
        await connection.aclose()
        assert trio.current_time() - before < 0.8 + 1.0
        assert recorder.log[-1] is CLOSED
        assert recorder.log.count("connection loss") == 1
        assert connection._thread_ended.is_set()


async def test_aclose_reconnects_to_close_the_session(proxy: TcpProxy, standalone: Ensemble, namespace: str) -> None:
    """A session that is closed while disconnected does not keep its claims until it expires."""
    root = f"/{namespace}"
    async with connect(standalone.hosts) as (other, _), connect(proxy.address) as (connection, recorder):
        await ask(connection.transact, [Create(root), Create(f"{root}/e", ephemeral=True)])
        proxy.cut(refuse=True)
        proxy.drop_all()
        await recorder.wait(lambda: connection.state is DISCONNECTED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            await trio.sleep(0.1)
            proxy.heal()
        assert await ask(other.children, root) == []


async def test_aclose_finds_another_server_when_its_own_is_silent(
    proxies: ProxyLoop, ensemble: Ensemble, namespace: str
) -> None:
    root = f"/{namespace}"
    proxy = proxies.open("127.0.0.1", ensemble.servers[0].client_port)
    hosts = f"{proxy.address},{ensemble.servers[1].address}"
    async with connect(ensemble.hosts) as (other, _), connect(hosts, randomize_hosts=False) as (connection, _):
        await ask(connection.transact, [Create(root), Create(f"{root}/e", ephemeral=True)])
        assert connection.server == proxy.address
        proxy.cut()
        await connection.aclose()
        await ask(other.heartbeat, "/", 0.0)  # its server may lag
        assert await ask(other.children, root) == []
    proxy.close()


async def test_aclose_without_any_server() -> None:
    (port,) = free_ports(1)
    connection, recorder = KazooConnection(f"127.0.0.1:{port}", session_timeout=5.0), Recorder()
    await connection.open(recorder)
    await trio.sleep(0.1)
    with trio.fail_after(1.5):
        await connection.aclose()
    assert recorder.log == [CLOSED]


async def test_silent_server_does_not_cost_the_session(proxy: TcpProxy, standalone: Ensemble) -> None:
    """A server that accepts the connection but does not answer is soon dropped, and the next one is tried."""
    async with connect(f"{proxy.address},{standalone.hosts}", session_timeout=2.4, randomize_hosts=False) as (
        connection,
        recorder,
    ):
        assert connection.server == proxy.address
        proxy.cut()
        before = trio.current_time()
        connection.drop()
        await recorder.wait(lambda: connection.number == 2)
        proxy.drop_all()
        assert connection.server == standalone.hosts
        assert trio.current_time() - before < 1.0
    # The same on the first connect, when there is no session to lose yet.
    before = trio.current_time()
    async with connect(f"{proxy.address},{standalone.hosts}", session_timeout=2.4, randomize_hosts=False) as (
        connection,
        recorder,
    ):
        assert trio.current_time() - before < 1.0
        assert connection.server == standalone.hosts


async def test_overloaded_server_is_reached_in_the_end(proxy: TcpProxy) -> None:
    """Each attempt waits longer for the answer. Otherwise a slow server would never be reached."""
    proxy.delay(0.3)
    async with connect(proxy.address, session_timeout=2.0, connect_timeout=0.2) as (connection, _):
        assert connection.number == 1


async def test_killed_leader(ensemble: Ensemble, namespace: str) -> None:
    """The session survives it."""
    root = f"/{namespace}"
    leader = await trio.to_thread.run_sync(ensemble.leader)
    assert leader is not None
    async with connect(ensemble.hosts, session_timeout=4.0) as (connection, recorder):
        await ask(connection.transact, [Create(root), Create(f"{root}/e", ephemeral=True)])
        session_id = connection.session_id
        leader.kill()
        await recorder.wait(lambda: DISCONNECTED in recorder.log and connection.state is CONNECTED)
        await ask(connection.heartbeat, root, 1.0)
        assert connection.session_id == session_id
        assert await ask(connection.children, root) == ["e"]
        assert connection.server != leader.address


async def test_cut_follower(linked_ensemble: Ensemble) -> None:
    """Its clients stay connected and can read. But only a heartbeat is proof, and none is acknowledged."""
    follower, third = await trio.to_thread.run_sync(linked_ensemble.followers)
    async with connect(follower.address, session_timeout=4.0) as (connection, recorder):
        async with connect(third.address) as (other, _):
            await ask(connection.heartbeat, "/", 1.0)
            linked_ensemble.isolate(follower)
            await trio.sleep(0.5)
            assert "zookeeper" in await ask(connection.children, "/")
            connection.heartbeat("/", 2.0, lambda answer: recorder.add("answer"))
            await ask(other.heartbeat, "/", 1.0)
            await trio.sleep(0.5)
            assert recorder.log == [CONNECTED]
            assert (connection.proof, other.proof) == (1.0, 1.0)
            linked_ensemble.heal()
        await recorder.wait(lambda: "answer" in recorder.log)


async def test_no_thread_is_left(standalone: Ensemble) -> None:
    async with connect(standalone.hosts):
        assert [thread.name for thread in threading.enumerate()].count("zookeeper") == 1
    with trio.fail_after(PATIENCE):  # the thread reports its end just before it ends
        while "zookeeper" in [thread.name for thread in threading.enumerate()]:
            await trio.lowlevel.checkpoint()


async def test_a_connection_counts_from_before_its_handshake(proxy: TcpProxy) -> None:
    """The server renewed the session when it handled the handshake, however late its answer is read."""
    proxy.delay(0.3)
    async with connect(proxy.address) as (connection, _):
        assert trio.current_time() - connection.connected_at >= 0.55
