"""ServerStatus: a server's answer to `srvr`, the only four-letter word that ZooKeeper allows by default."""

from __future__ import annotations

import re
from dataclasses import dataclass

import trio

__all__ = ["ServerStatus", "parse_srvr", "server_status", "server_version"]

_NOT_SERVING = "not serving"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server's answer to `srvr`.

    Attributes:
        version: such as "3.8.0"; empty while the server does not serve.
        mode: "leader", "follower", "observer", "standalone", "read-only", or "not serving" (without a quorum).
        latency_ms: the smallest, average and largest latency of a request, in ms.
        connections: the number of connected clients.
        outstanding: the number of queued requests.
        zxid: the last transaction applied.
        nodes: the number of znodes stored.
    """

    version: str = ""
    mode: str = _NOT_SERVING
    latency_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    connections: int = 0
    outstanding: int = 0
    zxid: int = 0
    nodes: int = 0


def parse_srvr(text: str) -> ServerStatus | None:
    """Parse an answer to `srvr`; None if it is something else, for example because `srvr` is not whitelisted."""
    if "not currently serving" in text:
        return ServerStatus()
    fields = {name: value for name, _, value in (line.partition(": ") for line in text.splitlines())}
    version = re.match(r"\d+\.\d+\.\d+", fields.get("Zookeeper version", ""))
    if version is None or "Mode" not in fields:
        return None
    low, average, high = (float(part) for part in fields.get("Latency min/avg/max", "0/0/0").split("/"))
    return ServerStatus(
        version=version.group(),
        mode=fields["Mode"],
        latency_ms=(low, average, high),
        connections=int(fields.get("Connections", 0)),
        outstanding=int(fields.get("Outstanding", 0)),
        zxid=int(fields.get("Zxid", "0"), 0),
        nodes=int(fields.get("Node count", 0)),
    )


async def server_status(host: str, port: int, timeout: float) -> ServerStatus | None:
    """Ask one server for its status, over a separate plain TCP connection.

    Returns:
        The status, or None if there is no usable answer within `timeout` seconds: nothing listens, the port speaks
        TLS, or `srvr` is not in the server's whitelist.
    """
    answer = b""
    with trio.move_on_after(timeout):
        try:
            async with await trio.open_tcp_stream(host, port) as stream:
                await stream.send_all(b"srvr")
                async for part in stream:
                    answer += part
        except (OSError, trio.BrokenResourceError):
            return None
    return parse_srvr(answer.decode(errors="replace"))


async def server_version(host: str, port: int, timeout: float) -> str | None:
    """Ask one server for its version, such as "3.8.0"; None if it does not answer or does not serve."""
    status = await server_status(host, port, timeout)
    return status.version or None if status is not None else None
