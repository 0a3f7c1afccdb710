"""The connection keeps the promises of the `Connection` protocol, against real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from metafora_trio_zookeeper._connection import (
    Check,
    Connection,
    Create,
    Delete,
    ErrorCode,
    EventType,
    ReadResult,
    Reply,
    SetData,
    Stat,
    WriteOp,
)
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from metafora_trio_zookeeper._kazoo.wire import check_kazoo
from metafora_trio_zookeeper._server_status import ServerStatus, parse_srvr, server_status, server_version
from metafora_trio_zookeeper.testing.real import Ensemble
from tests.support.processes import wait_until
from tests.support.zookeeper.connections import (
    CLOSED,
    CONNECTED,
    DISCONNECTED,
    PATIENCE,
    Recorder,
    ask,
    connect,
    refused,
)


def test_kazoo_is_as_expected() -> None:
    """The canary: the private names of kazoo that the adapter uses are as in kazoo 2.11.

    If this fails, see `_kazoo/wire.py` before you widen the range of kazoo versions in pyproject.toml.
    """
    assert check_kazoo() == []


async def test_is_a_connection() -> None:
    connection: Connection = KazooConnection("127.0.0.1:1", session_timeout=1.0)
    assert connection.state is DISCONNECTED
    assert (connection.session_id, connection.session_timeout, connection.server, connection.number) == (0, 0.0, "", 0)
    await connection.aclose()
    assert connection.state is CLOSED


async def test_events_and_replies_come_in_wire_order(ensemble: Ensemble, namespace: str) -> None:
    """The event of an own write comes before its reply, and events and replies never overtake each other."""
    root = f"/{namespace}"
    async with connect(ensemble.hosts) as (connection, recorder):
        await ask(connection.transact, [Create(root)])
        await ask(connection.add_watch, root)
        recorder.log.clear()
        expected: list[Any] = []
        for number in range(300):
            one, two = f"{root}/a{number}", f"{root}/b{number}"
            connection.transact([Create(one), Create(two)], lambda reply: recorder.add(type(reply)))
            connection.read([one], lambda reply: recorder.add(type(reply)))
            connection.transact([SetData(one, b"x"), Delete(two)], lambda reply: recorder.add(type(reply)))
            expected += [(EventType.CREATED, one), (EventType.CREATED, two), Reply, Reply]
            expected += [(EventType.CHANGED, one), (EventType.DELETED, two), Reply]
        await recorder.wait(lambda: len(recorder.log) == len(expected))
        assert recorder.log == expected


async def test_events_of_others(ensemble: Ensemble, namespace: str) -> None:
    root = f"/{namespace}"
    async with connect(ensemble.hosts) as (connection, recorder), connect(ensemble.hosts) as (other, _):
        await ask(connection.transact, [Create(root)])
        await ask(connection.add_watch, root)
        recorder.log.clear()
        paths = [f"{root}/{number}" for number in range(2000)]
        for path in paths:
            other.transact([Create(path)], lambda _: None)
        await recorder.wait(lambda: len(recorder.log) == len(paths))
        assert recorder.log == [(EventType.CREATED, path) for path in paths]


async def test_transaction(standalone: Ensemble, namespace: str) -> None:
    root = f"/{namespace}"
    async with connect(standalone.hosts) as (connection, _):
        assert await ask(connection.transact, [Create(root, b"first")]) == (root,)
        ops: list[WriteOp] = [
            Create(f"{root}/t~", ephemeral=True, sequential=True),
            SetData(root, b"second"),
            Check(root, 1),
            Create(f"{root}/x"),
            Delete(f"{root}/x", 0),
        ]
        claim = f"{root}/t~0000000000"
        assert await ask(connection.transact, ops) == (claim, None, None, f"{root}/x", None)
        assert await ask(connection.children, root) == ["t~0000000000"]
        result, absent, own = await ask(connection.read, [root, f"{root}/none", claim])
        assert absent is None
        assert own == ReadResult(b"", 0, own.mtime_ms, connection.session_id)
        assert result == ReadResult(b"second", 1, result.mtime_ms, 0)
        assert abs(result.mtime_ms / 1000 - time.time()) < PATIENCE


async def test_exists(standalone: Ensemble, namespace: str) -> None:
    root = f"/{namespace}"
    async with connect(standalone.hosts) as (connection, _):
        paths = [f"{root}/{number}" for number in range(1000)]
        await ask(connection.transact, [Create(root), *(Create(path, b"x" * 50) for path in paths[::2])])
        await ask(connection.transact, [SetData(paths[4], b"y")])
        found = await ask(connection.exists, [*paths, root])
        expected = [Stat(0, 50) if number % 2 == 0 else None for number in range(1000)]
        expected[4] = Stat(1, 1)
        assert found == (*expected, Stat(0, 0))
        assert await ask(connection.exists, []) == ()
        connection.drop()
        assert await refused(connection.exists, paths) == (ErrorCode.CONNECTION_LOSS, None)


async def test_idle_connection_is_woken(standalone: Ensemble) -> None:
    """A request does not wait for the loop's sleep to time out, which takes a second."""
    async with connect(standalone.hosts, session_timeout=4.0) as (connection, _):
        for _ in range(3):
            await ask(connection.children, "/")
            await trio.sleep(0.1)
            before = trio.current_time()
            await ask(connection.children, "/")
            assert trio.current_time() - before < 0.5


async def test_zxid_is_that_of_the_write(standalone: Ensemble, namespace: str) -> None:
    async with connect(standalone.hosts) as (connection, recorder):
        connection.transact([Create(f"/{namespace}")], recorder.add)
        connection.heartbeat("/", 1.0, recorder.add)
        await recorder.wait(lambda: len(recorder.log) == 3)
        _, create, check = recorder.log
        assert check.zxid == create.zxid + 1


@pytest.mark.parametrize(
    "refusal, code",
    [
        (lambda root: Delete(f"{root}/none"), ErrorCode.NO_NODE),
        (lambda root: Create(root), ErrorCode.NODE_EXISTS),
        (lambda root: SetData(root, b"", 7), ErrorCode.BAD_VERSION),
        (lambda root: Delete(root), ErrorCode.NOT_EMPTY),
        (lambda root: Create(f"{root}/e/child"), ErrorCode.NO_CHILDREN_FOR_EPHEMERALS),
        (lambda root: Create(f"{root}/.."), ErrorCode.OTHER),
    ],
    ids=["no node", "node exists", "bad version", "not empty", "below an ephemeral", "bad path"],
)
@pytest.mark.parametrize("index", [0, 1, 3])
async def test_transaction_refused(
    standalone: Ensemble, namespace: str, refusal: Callable[[str], WriteOp], code: ErrorCode, index: int
) -> None:
    """The error is that of the first operation that fails, and no operation takes effect."""
    root = f"/{namespace}"
    async with connect(standalone.hosts) as (connection, _):
        await ask(connection.transact, [Create(root), Create(f"{root}/e", ephemeral=True)])
        ops: list[WriteOp] = [Create(f"{root}/{number}") for number in range(3)]
        ops.insert(index, refusal(root))
        assert await refused(connection.transact, ops) == (code, index)
        assert await ask(connection.children, root) == ["e"]


async def test_other_requests_refused(standalone: Ensemble, namespace: str) -> None:
    async with connect(standalone.hosts) as (connection, _):
        assert await refused(connection.children, f"/{namespace}") == (ErrorCode.NO_NODE, None)
        assert await refused(connection.heartbeat, f"/{namespace}", 1.0) == (ErrorCode.NO_NODE, 0)


async def test_empty_and_large_requests(standalone: Ensemble, namespace: str) -> None:
    """A request larger than any buffer on its way arrives whole."""
    root, data = f"/{namespace}", b"x" * 300_000
    async with connect(standalone.hosts) as (connection, _):
        assert await ask(connection.transact, []) == ()
        assert await ask(connection.read, []) == ()
        paths = [f"{root}/{number}" for number in range(3)]
        await ask(connection.transact, [Create(root), *(Create(path, data) for path in paths)])
        for _ in range(3):
            assert [result.data for result in await ask(connection.read, paths * 3)] == [data] * 9


async def test_what_cannot_be_encoded_is_raised_in_the_call(standalone: Ensemble) -> None:
    async with connect(standalone.hosts) as (connection, _):
        with pytest.raises(UnicodeEncodeError):
            await ask(connection.transact, [Create("/\ud800")])
        with pytest.raises(UnicodeEncodeError):
            await ask(connection.children, "/\ud800")
        assert "zookeeper" in await ask(connection.children, "/")


@pytest.mark.parametrize("asked, got", [(100.0, 4.0), (0.01, 0.4), (1.5, 1.5)])
async def test_negotiated_session_timeout(standalone: Ensemble, asked: float, got: float) -> None:
    """Servers allow 2 to 20 ticks of 0.2 s."""
    before = trio.current_time()
    async with connect(standalone.hosts, session_timeout=asked) as (connection, _):
        assert connection.session_timeout == got
        assert connection.session_id != 0
        assert connection.server == standalone.servers[0].address
        assert before < connection.connected_at <= trio.current_time()


async def test_proof_is_the_largest_stamp_acknowledged(standalone: Ensemble, namespace: str) -> None:
    root = f"/{namespace}"
    async with connect(standalone.hosts) as (connection, _):
        assert connection.proof == float("-inf")
        await ask(connection.transact, [Create(root)])
        await ask(connection.heartbeat, root, 5.0)
        await ask(connection.heartbeat, root, 4.0)
        assert await refused(connection.heartbeat, f"{root}/gone", 6.0) == (ErrorCode.NO_NODE, 0)
        await ask(connection.children, root)
        assert connection.proof == 5.0


async def test_proof_does_not_wait_for_trio(standalone: Ensemble) -> None:
    """It is set where the reply is read, even while Trio's loop is busy."""
    async with connect(standalone.hosts) as (connection, _):
        connection.heartbeat("/", 5.0, lambda _: None)
        wait_until(lambda: connection.proof == 5.0)  # blocks, because Trio must not run yet
        assert connection.backlog > 0


async def test_session_is_closed_at_the_server(standalone: Ensemble, namespace: str) -> None:
    """Its ephemerals are gone when aclose returns, and earlier requests were carried out first."""
    root = f"/{namespace}"
    async with connect(standalone.hosts) as (other, _):
        await ask(other.transact, [Create(root)])
        async with connect(standalone.hosts) as (connection, recorder):
            connection.transact([Create(f"{root}/e", ephemeral=True)], recorder.add)
            for number in range(100):
                connection.transact([Create(f"{root}/{number}")], recorder.add)
        assert [CONNECTED, *(f"{root}/{name}" for name in ["e", *range(100)]), CLOSED] == [
            entry.value[0] if isinstance(entry, Reply) else entry for entry in recorder.log
        ]
        assert "e" not in await ask(other.children, root)
        assert len(await ask(other.children, root)) == 100
        await connection.aclose()
        assert await refused(connection.children, "/") == (ErrorCode.CONNECTION_LOSS, None)


async def test_aclose_cannot_be_cancelled(standalone: Ensemble) -> None:
    async with connect(standalone.hosts) as (connection, recorder):
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.aclose()
        assert connection.state is CLOSED
        assert recorder.log == [CONNECTED, CLOSED]


async def test_aclose_of_two_tasks(standalone: Ensemble) -> None:
    async with connect(standalone.hosts) as (connection, recorder), trio.open_nursery() as nursery:
        nursery.start_soon(connection.aclose)
        nursery.start_soon(connection.aclose)
    assert recorder.log == [CONNECTED, CLOSED]


async def test_error_of_a_callback_ends_the_session(standalone: Ensemble) -> None:
    """Later calls are still made, the session closes, and aclose raises the error."""
    connection, recorder = KazooConnection(standalone.hosts, session_timeout=3.0), Recorder()
    await connection.open(recorder)
    await recorder.wait(lambda: connection.state is CONNECTED)

    def fail(_: object) -> None:
        raise KeyError("of the test")

    connection.children("/", fail)
    connection.children("/", lambda reply: recorder.add(type(reply)))
    await recorder.wait(lambda: connection.state is CLOSED)
    assert recorder.log[-1] is CLOSED
    with pytest.raises(KeyError, match="of the test"):
        await connection.aclose()


async def test_open_once(standalone: Ensemble) -> None:
    async with connect(standalone.hosts) as (connection, recorder):
        with pytest.raises(RuntimeError):
            await connection.open(recorder)


async def test_chroot_is_refused() -> None:
    with pytest.raises(ValueError, match="namespace"):
        KazooConnection("127.0.0.1:2181/chroot", session_timeout=1.0)


async def test_server_status(standalone: Ensemble) -> None:
    port = standalone.servers[0].client_port
    status = await server_status("127.0.0.1", port, 5.0)
    assert status is not None
    assert status.mode == "standalone"
    assert status.nodes >= 1
    assert await server_version("127.0.0.1", port, 5.0) == status.version
    assert status.version >= "3.6"
    assert await server_version("127.0.0.1", 1, 5.0) is None


def test_parse_srvr() -> None:
    text = (
        "Zookeeper version: 3.8.0-5a02a05, built on 2022-02-25 08:49 UTC\nLatency min/avg/max: 0/1.5/20\nReceived: 9\n"
        "Sent: 8\nConnections: 2\nOutstanding: 3\nZxid: 0x100000002\nMode: leader\nNode count: 5\n"
        "Proposal sizes last/min/max: 48/48/48\n"
    )
    assert parse_srvr(text) == ServerStatus("3.8.0", "leader", (0.0, 1.5, 20.0), 2, 3, 0x100000002, 5)
    assert parse_srvr("This ZooKeeper instance is not currently serving requests\n") == ServerStatus()
    assert parse_srvr("srvr is not executed because it is not in the whitelist.\n") is None
    assert parse_srvr("") is None
