"""Optional methods of a coordinator, for people who look after a cluster.

The command line looks for each with `isinstance(coordinator, Diagnosable)`: a coordinator without the method has
nothing to offer there.
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
    """One fact about a cluster.

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
    """The result of looking into a broker.

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
        """Look into the broker: servers, connection, what is stored. Return each problem as a finding; raise nothing.

        A checkpoint. It changes nothing that a user could notice, and takes seconds at most: the coordinator's
        `connect_timeout` if no server answers.
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
