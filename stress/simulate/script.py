"""Script: a history as data, the steps taken on a simulated cluster. The same script makes the same history."""

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
        """Apply the step, and let everything happen that follows at the same instant. A step on a node that does not
        run (any more) is skipped, so a script stays usable when the library or its own earlier steps change.

        Raises:
            BrokenPromise: a promise was broken.
        """
        if "node" in self.args and not cluster.can_strike(self.args["node"]):
            return
        cluster.steps[self.do](**self.args)
        cluster.run_for(0.0)


@dataclass(frozen=True, slots=True)
class Script:
    """A history to be played.

    Attributes:
        seed: seeds everything that is random between the steps.
        session_timeout: T, in seconds.
        steps: the steps, in order.
        broker: "zookeeper" or "memory".
    """

    seed: int
    session_timeout: float
    steps: tuple[Step, ...]
    broker: str = "zookeeper"

    def encode(self) -> str:
        """Return the script as JSON, one step per line."""
        steps = ",\n".join(f"  {json.dumps({'do': step.do, **step.args})}" for step in self.steps)
        head = {"broker": self.broker, "seed": self.seed, "session_timeout": self.session_timeout}
        return f'{json.dumps(head)[:-1]}, "steps": [\n{steps}\n]}}\n'

    @classmethod
    def decode(cls, text: str) -> Script:
        """Return the script that `encode` wrote.

        Raises:
            ValueError: the text is not a script.
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
        """Read a script from a file. Raises as `decode` does."""
        return cls.decode(Path(path).read_text())

    def open(self) -> SimulatedCluster:
        """Open the cluster with which the history begins: no nodes, no tasks.

        Raises:
            ValueError: the script has a step that does not exist with its broker.
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
        seconds: how much virtual time has passed.
        faults: how often each fault was inflicted, by name.
        runs: how often a handler started.
        trace: every recorded event, in order. Equal histories have equal traces.
    """

    seconds: float
    faults: Mapping[str, int]
    runs: int
    trace: tuple[object, ...]


def play(script: Script) -> Played:
    """Play a script from its beginning, then end all faults and check that the cluster settles.

    Raises:
        BrokenPromise: a promise was broken.
    """
    with script.open() as cluster:
        for step in script.steps:
            step.apply(cluster)
        cluster.settle()
        return Played(
            cluster.world.now,
            dict(cluster.fault_counts),
            sum(event.ev == "start" for event in cluster.monitor.events),
            tuple(cluster.monitor.events),
        )


def shorten(script: Script) -> Script:
    """Return a shorter history that breaks a promise, too. None of its steps can be left out, alone or with its
    neighbours.

    Args:
        script: a history that breaks a promise.
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
