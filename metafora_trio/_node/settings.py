"""The arguments of a consumer, as users pass them and after checking."""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from metafora_trio._clock import Clock
from metafora_trio._model.node_info import NodeInfo
from metafora_trio._model.task import check_node_name
from metafora_trio.balancers import Balancer
from metafora_trio.events import Observer

from .watchdog import OnOverrun

__all__ = ["ConsumerOptions", "ConsumerSettings", "default_name"]


class ConsumerOptions(TypedDict, total=False):
    """The keyword arguments of `Consumer` and `open_consumer`. `Consumer` documents each."""

    name: str | None
    balancer: Balancer | None
    capacity: int | None
    tags: Iterable[str]
    grace: float
    cleanup_timeout: float
    drain_timeout: float
    on_overrun: OnOverrun
    blocked_timeout: float | None
    settle: float
    backup_delay: float
    max_handovers: int
    suspend_after_failures: int | None
    observers: Sequence[Observer]
    clock: Clock | None
    rng: random.Random | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """The checked settings of a consumer. `Consumer` documents each.

    Raises:
        TypeError, ValueError (with `InvalidName` and `InvalidRecord`): an argument breaks a rule; the message names it.
    """

    name: str
    balancer: Balancer
    capacity: int | None
    tags: frozenset[str]
    grace: float
    cleanup_timeout: float
    drain_timeout: float
    on_overrun: OnOverrun
    blocked_timeout: float | None
    settle: float
    backup_delay: float
    max_handovers: int
    suspend_after_failures: int | None
    clock: Clock
    rng: random.Random

    def __post_init__(self) -> None:
        check_node_name(self.name)
        for argument in ("grace", "cleanup_timeout", "drain_timeout", "settle", "max_handovers"):
            value = getattr(self, argument)
            if not value >= 0:  # refuses NaN, too
                raise ValueError(f"{argument} must be 0 or more, not {value!r}")
        if self.blocked_timeout is not None and not self.blocked_timeout > 0:
            raise ValueError(f"blocked_timeout must be more than 0, or None, not {self.blocked_timeout!r}")
        if not self.backup_delay > 0:
            raise ValueError(f"backup_delay must be more than 0, not {self.backup_delay!r}")
        if self.suspend_after_failures is not None and self.suspend_after_failures < 1:
            raise ValueError(f"suspend_after_failures must be 1 or more, or None, not {self.suspend_after_failures!r}")
        if self.on_overrun not in ("log", "exit"):
            raise ValueError(f'on_overrun must be "log" or "exit", not {self.on_overrun!r}')
        NodeInfo(self.name, capacity=self.capacity, tags=self.tags)  # refuses what other nodes could not read


def default_name() -> str:
    """Return the host name and process id as a node's name."""
    host = re.sub(r"[^A-Za-z0-9._:@=+-]", "-", socket.gethostname()) or "node"
    return f"{host[:100]}-{os.getpid()}"
