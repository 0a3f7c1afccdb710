"""Dropped packets: the kernel drops them in a network namespace, so cuts and losses are as on a real network.

The whole run, with its servers, nodes and proxies, is in one namespace. All traffic stays on the loopback device of the
namespace, no address is needed, and the kernel removes everything when the last process has ended. The ports of the
proxies identify the links.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import product

import trio

__all__ = ["dropping", "enter_namespace", "missing_tools"]

_INSIDE = "METAFORA_CHAOS_INSIDE"
_TOOLS = ("unshare", "ip", "iptables")


def missing_tools() -> list[str]:
    """Return the needed programs that are not installed."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def enter_namespace(module: str, arguments: Sequence[str]) -> None:
    """Move this process into a new namespace.

    The first call runs the module again in the namespace, and does not return. In the namespace, the call only enables
    the loopback device.
    """
    if _INSIDE not in os.environ:
        # Root needs no user namespace. Any other user becomes root within one, if the system allows it.
        privileges = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", "--net", *privileges, sys.executable, "-m", module, *arguments]
        os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})
    if os.spawnlp(os.P_WAIT, "ip", "ip", "link", "set", "lo", "up") != 0:
        raise OSError("cannot bring up the loopback device of the new network namespace")


@asynccontextmanager
async def dropping(
    ports: Sequence[int], *, up: bool = True, down: bool = True, share: float = 1.0
) -> AsyncGenerator[None]:
    """Drop a share of the packets to (`up`) and from (`down`) some ports for the duration of the block."""
    rules = list(_rules(ports, up=up, down=down, share=share))
    for rule in rules:
        await trio.run_process(["iptables", "-w", "-A", *rule])
    yield
    for rule in rules:
        await trio.run_process(["iptables", "-w", "-D", *rule])


def _rules(ports: Sequence[int], *, up: bool, down: bool, share: float) -> Iterator[list[str]]:
    by_chance = [] if share >= 1 else ["-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}"]
    directions = ["--dport"] * up + ["--sport"] * down
    for port, direction in product(ports, directions):
        yield ["INPUT", "-i", "lo", "-p", "tcp", direction, str(port), *by_chance, "-j", "DROP"]
