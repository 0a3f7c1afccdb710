"""Packets that the kernel drops, in a network namespace of the run's own: silence and loss as on a real network.

The whole run, servers, nodes and proxies, lives in one namespace: everything stays on its loopback device, no address
is needed, and the kernel removes all of it when the last process has ended. Links are told apart by the proxies' ports.
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
    """What of the needed programs is not installed."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def enter_namespace(module: str, arguments: Sequence[str]) -> None:
    """Have this process run in a new namespace: the first time it runs the module again, there, and does not return."""
    if _INSIDE not in os.environ:
        # Root needs no user namespace; everybody else is root within one, where the system allows it.
        privileges = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", "--net", *privileges, sys.executable, "-m", module, *arguments]
        os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})
    if os.spawnlp(os.P_WAIT, "ip", "ip", "link", "set", "lo", "up") != 0:
        raise OSError("the loopback device of the new network namespace does not come up")


@asynccontextmanager
async def dropping(
    ports: Sequence[int], *, up: bool = True, down: bool = True, share: float = 1.0
) -> AsyncGenerator[None]:
    """Drop packets to (`up`) and from (`down`) some ports, a share of them, for the length of the block."""
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
