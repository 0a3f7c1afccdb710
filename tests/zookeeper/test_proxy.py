"""The proxy disturbs connections as requested, and in no other way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import pytest
import trio

from metafora_trio_zookeeper.testing.real import ProxyLoop, TcpProxy, free_ports


@contextlib.asynccontextmanager
async def echo_through_proxy(proxies: ProxyLoop) -> AsyncGenerator[TcpProxy]:
    """A proxy to a server that sends everything back."""

    async def echo(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        proxy = proxies.open("127.0.0.1", listener.socket.getsockname()[1])
        with trio.fail_after(10):
            yield proxy
        proxy.close()
        nursery.cancel_scope.cancel()


async def silent(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(0.1):
        return await stream.receive_some() is None
    return True


async def test_passes(proxies: ProxyLoop) -> None:
    async with echo_through_proxy(proxies) as proxy, await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        await stream.send_all(b"a")
        assert await stream.receive_some() == b"a"
        assert proxy.connections() == 1
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_cut_holds_and_heal_delivers(proxies: ProxyLoop) -> None:
    async with echo_through_proxy(proxies) as proxy, await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        await stream.send_all(b"a")
        await stream.receive_some()
        proxy.cut()
        await stream.send_all(b"b")
        assert await silent(stream)
        proxy.heal()
        assert await stream.receive_some() == b"b"


async def test_new_connections_are_silent_while_cut(proxies: ProxyLoop) -> None:
    async with echo_through_proxy(proxies) as proxy:
        proxy.cut()
        async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
            await stream.send_all(b"a")
            assert await silent(stream)
            proxy.heal()
            assert await stream.receive_some() == b"a"


async def test_new_connections_are_refused(proxies: ProxyLoop) -> None:
    async with echo_through_proxy(proxies) as proxy, await trio.open_tcp_stream(proxy.host, proxy.port) as old:
        await old.send_all(b"a")
        await old.receive_some()
        proxy.cut(refuse=True)
        with pytest.raises((OSError, trio.BrokenResourceError)):  # the reset may come before we look or after
            async with await trio.open_tcp_stream(proxy.host, proxy.port) as new:
                await new.receive_some()
        assert await silent(old)


async def test_lost_replies(proxies: ProxyLoop) -> None:
    """Requests pass, and the held replies are lost with the connection."""
    async with echo_through_proxy(proxies) as proxy:
        async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
            proxy.hold_replies()
            await stream.send_all(b"a")
            assert await silent(stream)
            assert proxy.drop_all() == 1
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        proxy.heal()
        async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
            await stream.send_all(b"b")
            assert await stream.receive_some() == b"b"


async def test_delay(proxies: ProxyLoop) -> None:
    """It delays each direction without reducing the throughput."""
    async with echo_through_proxy(proxies) as proxy, await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        proxy.delay(0.1)
        before = trio.current_time()
        for _ in range(10):
            await stream.send_all(b"a")
            await trio.sleep(0.01)
        received = b""
        while len(received) < 10:
            received += await stream.receive_some()
        assert 0.2 <= trio.current_time() - before < 1.0


async def test_target_away(proxies: ProxyLoop) -> None:
    """While the link is cut, the client does not notice."""
    proxy = proxies.open("127.0.0.1", 1)
    proxy.cut()
    async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        assert await silent(stream)
        proxy.heal()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    proxy.close()


async def test_closed(proxies: ProxyLoop) -> None:
    async with echo_through_proxy(proxies) as proxy:
        async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
            await stream.send_all(b"a")
            await stream.receive_some()
            proxy.close()
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(proxy.host, proxy.port)


def test_address_taken(proxies: ProxyLoop) -> None:
    """It raises OSError, even without Trio."""
    proxy = proxies.open("127.0.0.1", 1)
    with pytest.raises(OSError, match="in use"):
        proxies.open("127.0.0.1", 1, listen=(proxy.host, proxy.port))
    proxy.close()


def test_loop_ends_with_its_connections() -> None:
    with ProxyLoop() as loop:
        loop.open("127.0.0.1", 1)


async def test_with_patience_a_connection_waits_for_a_target_that_does_not_listen_yet(proxies: ProxyLoop) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")

    (port,) = free_ports(1)
    proxy = proxies.open("127.0.0.1", port, patience=30.0)
    with trio.fail_after(30):
        async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream, trio.open_nursery() as nursery:
            assert await silent(stream)
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, greet, listeners)
            assert await stream.receive_some() == b"hello"
            nursery.cancel_scope.cancel()
    proxy.close()


@pytest.mark.parametrize("patience", [0.0, 0.1])
async def test_a_connection_is_reset_when_its_target_does_not_listen(proxies: ProxyLoop, patience: float) -> None:
    proxy = proxies.open("127.0.0.1", *free_ports(1), patience=patience)

    async def connect_and_listen() -> None:
        with trio.socket.socket() as client:
            await client.connect((proxy.host, proxy.port))  # the reset may be quicker than this
            await client.recv(1)

    with trio.fail_after(30), pytest.raises(ConnectionResetError):
        await connect_and_listen()
    proxy.close()


async def test_a_limited_rate(proxies: ProxyLoop) -> None:
    """300,000 bytes at 1 MB/s take no less than 0.3 s each way, and arrive whole and in order."""
    sent = bytes(range(250)) * 1200
    async with echo_through_proxy(proxies) as proxy, await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
        proxy.limit(1_000_000)
        began, received = trio.current_time(), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            while len(received) < len(sent):
                received += await stream.receive_some()
        assert received == sent
        assert trio.current_time() - began >= 0.3
