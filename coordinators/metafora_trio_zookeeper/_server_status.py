"""What a server says of itself: ZooKeeper's four-letter word `srvr`, the only one allowed by default."""

from __future__ import annotations

import re
from dataclasses import dataclass

import trio

__all__ = ["ServerStatus", "parse_srvr", "server_status", "server_version"]

_NOT_SERVING = "not serving"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The answer of a server to `srvr`.

    Attributes:
        version: e.g. "3.8.0"; empty while the server does not serve.
        mode: "leader", "follower", "observer", "standalone", "read-only", or "not serving" (without a quorum).
        latency_ms: smallest, average and largest time in ms that a request took.
        connections: clients connected.
        outstanding: requests queued.
        zxid: the last transaction applied.
        nodes: znodes stored.
    """

    version: str = ""
    mode: str = _NOT_SERVING
    latency_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    connections: int = 0
    outstanding: int = 0
    zxid: int = 0
    nodes: int = 0


def parse_srvr(text: str) -> ServerStatus | None:
    """Parse the answer to `srvr`; None if it is not one, for example because the word is not whitelisted."""
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
    """Ask one server, over a plain TCP connection of its own.

    Returns:
        None if there is no usable answer within `timeout` seconds: nothing listens, the port speaks TLS, or
        the word is not in the server's whitelist.
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
    """Ask one server for its version, e.g. "3.8.0". None where `server_status` gives None, or if it does not serve."""
    status = await server_status(host, port, timeout)
    return status.version or None if status is not None else None
