"""TLS, authentication and ACLs, against real servers."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from kazoo.security import CREATOR_ALL_ACL

from metafora_trio import CoordinatorUnavailable, NodeInfo
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import ConnectionState, Create, ErrorCode, EventType, RequestError
from metafora_trio_zookeeper._kazoo.buffered_socket import BufferedSocket
from metafora_trio_zookeeper._kazoo.connection import KazooConnection
from metafora_trio_zookeeper.testing.real import Ensemble, free_ports
from tests.support.zookeeper.connections import Recorder, ask, connect, refused


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1; `both.pem` has its key too."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "both.pem").write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return folder / "certificate.pem"


@pytest.fixture(scope="module")
def secure_hosts(certificate: Path) -> Iterator[str]:
    """A server that speaks TLS and requires client certificates."""
    (port,) = free_ports(1)
    config = {
        "secureClientPort": port,
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.type": "PEM",
        "ssl.keyStore.location": certificate.parent / "both.pem",
        "ssl.trustStore.type": "PEM",
        "ssl.trustStore.location": certificate,
        "ssl.hostnameVerification": "false",
    }
    with Ensemble(1, config=config):
        yield f"127.0.0.1:{port}"


async def test_tls(secure_hosts: str, certificate: Path, namespace: str) -> None:
    """Many small and some large messages, and a forced drop, through TLS."""
    root, both = f"/{namespace}", str(certificate.parent / "both.pem")
    tls = {"ca": str(certificate), "certfile": both, "check_hostname": True}
    async with connect(secure_hosts, tls=tls) as (connection, recorder):
        await ask(connection.transact, [Create(root)])
        await ask(connection.add_watch, root)
        recorder.log.clear()
        for number in range(2000):
            connection.transact([Create(f"{root}/{number}")], lambda _: None)
        await recorder.wait(lambda: len(recorder.log) == 2000)
        assert recorder.log == [(EventType.CREATED, f"{root}/{number}") for number in range(2000)]
        paths = [f"{root}/large{number}" for number in range(3)]
        await ask(connection.transact, [Create(path, b"x" * 300_000) for path in paths])
        assert {len(result.data) for result in await ask(connection.read, paths * 3)} == {300_000}
        session_id = connection.session_id
        connection.drop()
        await recorder.wait(lambda: connection.number == 2)
        assert connection.session_id == session_id
        for _ in range(50):
            await ask(connection.heartbeat, root, 1.0)


async def test_tls_server_that_is_not_trusted(secure_hosts: str) -> None:
    connection, recorder = KazooConnection(secure_hosts, session_timeout=1.0, tls={}), Recorder()
    await connection.open(recorder)
    await trio.sleep(0.3)
    assert connection.state is ConnectionState.DISCONNECTED
    await connection.aclose()


def test_tls_shutdown(certificate: Path) -> None:
    """Bytes that arrived before are still decrypted; ciphertext is never returned as data."""
    context = ssl.create_default_context(cafile=str(certificate))
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate.parent / "both.pem")
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool, theirs:
        handshake = pool.submit(server_context.wrap_socket, theirs, server_side=True)
        buffered = BufferedSocket(context.wrap_socket(ours, server_hostname="127.0.0.1"))
        with handshake.result() as server:
            server.sendall(b"last")
            buffered.shutdown()
            for _ in range(4):  # a TLS record may hold no data
                buffered.fill()
            assert buffered.recv(100) == b"last"
            assert buffered.readable()
    buffered.close()


async def test_tls_files_are_read_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        KazooConnection("127.0.0.1:1", session_timeout=1.0, tls={"ca": "missing.pem"})
    with pytest.raises(ValueError, match="cafile"):
        KazooConnection("127.0.0.1:1", session_timeout=1.0, tls={"cafile": "wrong name"})


async def test_tls_files_that_cannot_be_read_now() -> None:
    """A node that joins again while a certificate is being replaced keeps trying."""
    coordinator = ZooKeeperCoordinator("127.0.0.1:1", tls={"ca": "missing.pem"})
    with pytest.raises(CoordinatorUnavailable, match=r"cannot connect to ZooKeeper at 127\.0\.0\.1:1: .*No such file"):
        async with coordinator.open_session(NodeInfo("a")):
            raise AssertionError


async def test_digest_and_acl(standalone: Ensemble, namespace: str) -> None:
    """Only its creator can access a znode created with the ACL, even after a reconnect."""
    path = f"/{namespace}"
    auth = [("digest", "user:password")]
    async with connect(standalone.hosts, auth=auth, acl=CREATOR_ALL_ACL) as (connection, recorder):
        await ask(connection.transact, [Create(path, b"secret")])
        async with connect(standalone.hosts) as (stranger, _):
            readable, secret, missing = await ask(stranger.read, ["/", path, f"{path}/none"])
            assert isinstance(secret, RequestError)
            assert (readable.data, secret.code, missing) == (b"", ErrorCode.NO_AUTH, None)
            assert await refused(stranger.children, path) == (ErrorCode.NO_AUTH, None)
            assert await refused(stranger.transact, [Create(f"{path}/child")]) == (ErrorCode.NO_AUTH, 0)
        connection.drop()
        await recorder.wait(lambda: connection.number == 2)
        assert (await ask(connection.read, [path]))[0].data == b"secret"


async def test_creator_acl_without_authentication_is_refused(standalone: Ensemble, namespace: str) -> None:
    async with connect(standalone.hosts, acl=CREATOR_ALL_ACL) as (connection, _):
        assert await refused(connection.transact, [Create(f"/{namespace}")]) == (ErrorCode.OTHER, 0)
