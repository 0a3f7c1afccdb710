"""SimulatedBroker: the protocol that the author of a backend implements to have it simulated.

With it comes everything that is built on a `SimulatedCluster`: the fixture `metafora_cluster`, the search for broken
promises (`python -m stress.simulate`) and the mutants of the node (`python -m stress.mutants`). `MemoryBroker` is the
shortest example. `NodeProcesses` and `SharedProcess` host nodes, so that a broker need not.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from metafora_trio import Coordinator, StateName
from metafora_trio.contract import ClusterView

from ._client import Expectations
from ._faults import Fault
from ._monitor import Monitor
from ._node import SimulatedNode
from ._runs import Place
from ._world import World

__all__ = ["BrokerContents", "BrokerFactory", "SimulatedBroker", "SimulationContext"]


@dataclass(frozen=True, slots=True)
class SimulationContext:
    """All that a cluster gives to its broker.

    Attributes:
        world: virtual time, and the processes in it.
        monitor: takes reports of what happens and of what is wrong.
        expectations: what clients have asked for.
        nodes: all nodes there ever were, by name. It grows as the cluster does.
        session_timeout: the session timeout of all nodes, in seconds.
        fork: makes a new source of chance. Use no other, or the same seed does not make the same history. Forks are
            numbered, so that one more changes every history.
    """

    world: World
    monitor: Monitor
    expectations: Expectations
    nodes: Mapping[str, SimulatedNode]
    session_timeout: float
    fork: Callable[[], random.Random]


@dataclass(frozen=True, slots=True)
class BrokerContents:
    """All that is stored at the broker at this moment, even if no node has seen it yet.

    Attributes:
        view: the sessions, tasks and claims. It may be the broker's own view, so do not keep it.
        states: the recorded state of each task that has one.
        commanded: for each command that waits for its node, the identity of that node's session.
        leftovers: a line of text for each thing that is stored but belongs to nothing; empty in a settled cluster.
    """

    view: ClusterView
    states: Mapping[str, StateName]
    commanded: Sequence[str]
    leftovers: Sequence[str] = field(default=())

    def owner(self, task: str) -> tuple[str, int] | None:
        """The owner of a task, as the identity of its session and its fencing token. None if nobody owns it or the task
        has ended."""
        head = self.view.head(task)
        return None if head is None or task not in self.view.tasks else (head.node, head.seq)


class SimulatedBroker(Protocol):
    """A broker on virtual time, with all that can go wrong with it. Made by a `BrokerFactory`.

    It reports to the monitor what only a broker sees. `Monitor.claim_gone` is the least: call it for each claim that is
    removed, at that instant or in the next `observe`. Checks that make sense with this broker only belong here, too,
    and report by `Monitor.violation`.
    """

    @property
    def faults(self) -> Mapping[str, Fault]:
        """All faults that it offers, by name. The names that have a meaning everywhere, and their arguments, are:

        * `crash(node)`, `pause(node, seconds=None)`: kill or stop the process of a node. A broker that offers `pause`
          has each node in a process of its own, which may have a clock at another rate.
        * `partition(node)`: cut a node off from the broker, both ways.
        * `delay(node, seconds)`: have everything between a node and the broker take this long, each way.
        * `lose_reply(node)`: the next write of a node takes effect, and its connection breaks before the reply.
        * `expire(node)`: end a node's session before its time; call `Monitor.void` with its identity.

        Each may be missing, or take more arguments, and there may be others, but not `drift` and `linger`: these are
        faults of the cluster itself.
        """
        ...

    @property
    def remedies(self) -> Mapping[str, Callable[..., None]]:
        """Actions that end a single fault, besides `heal`, by name. `resume(node)` is needed with `pause`."""
        ...

    @property
    def expiry_delay(self) -> float:
        """The longest time, in seconds, by which a session may outlast its timeout."""
        ...

    def coordinator(self) -> Coordinator:
        """Make the coordinator of one node, or of the client. It may be the same for all."""
        ...

    def spawn(self, name: str, async_function: Callable[[], Awaitable[object]], *, rate: float = 1.0) -> Place:
        """Run the client, or a node, and return where it runs.

        Args:
            name: for people.
            async_function: what to run.
            rate: how fast the clock runs there.

        Raises:
            ValueError: it cannot have a clock at this rate.
        """
        ...

    def contents(self) -> BrokerContents:
        """Return all that is stored now."""
        ...

    def observe(self) -> int:
        """Report to the monitor what has happened since the last call, and return how often the contents have changed
        so far. It is called after every step of the world, so it must be quick where nothing has happened."""
        ...

    def heal(self, node: str | None = None) -> None:
        """Repair the connections of one node; with None those of all nodes, and all servers."""
        ...

    def recover(self) -> None:
        """End every fault that still lasts: `heal()`, and let every paused node go on."""
        ...


class BrokerFactory(Protocol):
    """Makes a broker for a cluster: the class of the broker, or a `functools.partial` of it with some options."""

    def __call__(self, context: SimulationContext, /) -> SimulatedBroker: ...
