"""What a coordinator may offer, besides its contract, to those who look after a cluster.

Each is found by asking, as in `isinstance(coordinator, Diagnosable)`: one that has nothing to offer has no such method.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Diagnosable", "Diagnosis", "Finding", "Level", "Removable"]


class Level(enum.StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """It works, but somebody should look at it."""
    PROBLEM = "problem"
    """Tasks do not run as they should, or soon will not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found out about a cluster.

    Attributes:
        level: how much it matters.
        text: what was found, in one line.
        hint: what one can do about it, in one line; empty if nothing needs doing.
    """

    level: Level
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found out about a broker.

    Attributes:
        findings: in the order in which to read them.
        usable: whether a client would find a cluster there. If not, and a finding is a problem, it cannot be reached.
    """

    findings: Sequence[Finding]
    usable: bool


@runtime_checkable
class Diagnosable(Protocol):
    """A coordinator that can look into its broker."""

    async def diagnose(self) -> Diagnosis:
        """Look into the broker: servers, connection, what is stored. What goes wrong is a finding, not an exception.

        A checkpoint. It changes nothing that anybody could notice, and takes seconds at most: the coordinator's
        `connect_timeout` where nobody answers.
        """
        ...


@runtime_checkable
class Removable(Protocol):
    """A coordinator whose cluster can be removed from its broker, with all that is in it."""

    async def remove(self) -> None:
        """Remove every trace of the cluster, for tests and demonstrations.

        A checkpoint; when cancelled, part of it may be gone. If there is nothing, nothing happens.

        Raises:
            CoordinatorUnavailable: the broker cannot be reached, or nodes of the cluster are alive.
        """
        ...
