"""Histories as data: what is done to a simulated cluster, step by step. The same script makes the same history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metafora_trio.testing.simulation import BrokenPromise, SimulatedCluster

from .brokers import BROKERS

__all__ = ["Played", "Script", "Step", "play", "shorten"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name in `SimulatedCluster.steps`, and its arguments."""

    do: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, cluster: SimulatedCluster) -> None:
        """Do it, and all that follows from it at the same instant. Leave it out if it is to be done to a node that does
        not run: so a script outlives changes of the library, and of its own earlier steps.

        Raises:
            BrokenPromise: a promise was broken.
        """
        if "node" in self.args and not cluster.runs(self.args["node"]):
            return
        cluster.steps[self.do](**self.args)
        cluster.run_for(0.0)


@dataclass(frozen=True, slots=True)
class Script:
    """A history to be played.

    Attributes:
        seed: of all that is left to chance between the steps.
        session_timeout: T, in seconds.
        steps: what is done.
        broker: "zookeeper" or "memory".
    """

    seed: int
    session_timeout: float
    steps: tuple[Step, ...]
    broker: str = "zookeeper"

    def encode(self) -> str:
        """As JSON, one step a line."""
        steps = ",\n".join(f"  {json.dumps({'do': step.do, **step.args})}" for step in self.steps)
        head = {"broker": self.broker, "seed": self.seed, "session_timeout": self.session_timeout}
        return f'{json.dumps(head)[:-1]}, "steps": [\n{steps}\n]}}\n'

    @classmethod
    def decode(cls, text: str) -> Script:
        """Read what `encode` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            record = json.loads(text)
            steps = tuple(Step(step.pop("do"), step) for step in record["steps"])
            broker = record.get("broker", "zookeeper")
            if broker not in BROKERS:
                raise ValueError(f"not a script: no broker {broker!r}")
            return cls(int(record["seed"]), float(record["session_timeout"]), steps, broker)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a script: {error!r}") from error

    @classmethod
    def read(cls, path: str | Path) -> Script:
        """From a file. Raises as `decode` does."""
        return cls.decode(Path(path).read_text())

    def open(self) -> SimulatedCluster:
        """Make the cluster that it begins with: no node, no task.

        Raises:
            ValueError: its broker does not offer one of its steps.
        """
        cluster = SimulatedCluster(seed=self.seed, session_timeout=self.session_timeout, broker=BROKERS[self.broker])
        unknown = sorted({step.do for step in self.steps} - cluster.steps.keys())
        if unknown:
            cluster.close()
            raise ValueError(f"no step {unknown[0]!r} with the broker {self.broker!r}: {', '.join(cluster.steps)}")
        return cluster


@dataclass(frozen=True, slots=True)
class Played:
    """The result of a history.

    Attributes:
        seconds: of virtual time.
        faults: how often each kind of disturbance was made.
        runs: how often a handler started.
        trace: every start and stop, in order: equal for equal histories.
    """

    seconds: float
    faults: Mapping[str, int]
    runs: int
    trace: tuple[object, ...]


def play(script: Script) -> Played:
    """Play a script from its beginning, then end all disturbances and see the cluster come to rest.

    Raises:
        BrokenPromise: a promise was broken.
    """
    with script.open() as cluster:
        for step in script.steps:
            step.apply(cluster)
        cluster.settle()
        return Played(
            cluster.world.now,
            dict(cluster.faults),
            sum(event.ev == "start" for event in cluster.monitor.events),
            tuple(cluster.monitor.events),
        )


def shorten(script: Script) -> Script:
    """A history with fewer steps that breaks a promise as well: none of them can be left out, alone or with its
    neighbours.

    Args:
        script: one that breaks a promise.
    """
    if script.seed and _fails(simpler := replace(script, seed=0)):
        script = simpler
    size = len(script.steps) // 2
    while size:
        start, left_out = 0, False
        while start < len(script.steps):
            shorter = replace(script, steps=script.steps[:start] + script.steps[start + size :])
            if _fails(shorter):
                script, left_out = shorter, True
            else:
                start += size
        if not left_out:
            size //= 2
    return script


def _fails(script: Script) -> bool:
    try:
        play(script)
    except BrokenPromise:
        return True
    return False
