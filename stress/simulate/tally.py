"""Tally: the totals of a search, and the failure that ended it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from metafora_trio.testing.simulation import SimulatedCluster

from .script import Script

__all__ = ["Failure", "Tally"]


@dataclass(frozen=True)
class Failure:
    """A history that failed.

    Attributes:
        script: the history.
        problem: the broken promise, or any other error.
        broken: whether a promise was broken.
    """

    script: Script
    problem: str
    broken: bool


@dataclass
class Tally:
    """The totals of all histories of a machine so far.

    Attributes:
        assumptions: the assumption that each fault breaks; empty for most.
        overruns: how many scopes were open more than 50 ms after the end of their lease, also where an assumption was
            broken.
        failure: the last history that failed; once it is shortened, the shortest one found.
    """

    histories: int = 0
    steps: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    assumptions: dict[str, str] = field(default_factory=dict)
    overruns: int = 0
    failure: Failure | None = None

    def add(self, cluster: SimulatedCluster, steps: int) -> None:
        """Count a history that has ended."""
        self.histories += 1
        self.steps += steps
        self.seconds += cluster.world.now
        self.faults.update(cluster.fault_counts)
        self.assumptions.update(cluster.assumptions)
        self.overruns += len(cluster.monitor.overruns)

    def merge(self, other: Tally) -> None:
        """Add the totals of another search."""
        self.histories += other.histories
        self.steps += other.steps
        self.seconds += other.seconds
        self.faults.update(other.faults)
        self.assumptions.update(other.assumptions)
        self.overruns += other.overruns
        self.failure = self.failure or other.failure
