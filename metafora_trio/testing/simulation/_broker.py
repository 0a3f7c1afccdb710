"""SimulatedBroker: the protocol that a backend's author implements to have the backend simulated.

A backend that has one can use everything built on a `SimulatedCluster`: the fixture `metafora_cluster`, the search for
broken promises (`python -m stress.simulate`) and the mutants of the node (`python -m stress.mutants`). `MemoryBroker`
is the shortest example. `NodeProcesses` and `SharedProcess` host nodes, so a broker need not do that itself.
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
    """The objects that a cluster passes to its broker.

    Attributes:
        world: virtual time, and the processes in it.
        monitor: receives reports of events and violations.
        expectations: the clients' requests.
        nodes: every node ever started, by name. It grows with the cluster.
        session_timeout: the session timeout of all nodes, in seconds.
        fork: makes a new source of random numbers. Use no other source. Otherwise the same seed would not make the same
            history. Each fork depends on how many came before it, so one more fork changes every history.
    """

    world: World
    monitor: Monitor
    expectations: Expectations
    nodes: Mapping[str, SimulatedNode]
    session_timeout: float
    fork: Callable[[], random.Random]


@dataclass(frozen=True, slots=True)
class BrokerContents:
    """The contents of the broker at this moment, whether or not any node has seen them yet.

    Attributes:
        view: the sessions, tasks and claims. It may be the broker's live view, so do not keep it.
        states: the recorded state of each task that has one.
        commanded: for each command queued for a node, the identity of that node's session.
        leftovers: descriptions of stored records that belong to nothing; empty once the cluster has settled.
    """

    view: ClusterView
    states: Mapping[str, StateName]
    commanded: Sequence[str]
    leftovers: Sequence[str] = field(default=())


class SimulatedBroker(Protocol):
    """A broker on virtual time, with all its possible faults. Made by a `BrokerFactory`.

    The broker reports to the monitor whatever only a broker can see. At least it must call `Monitor.claim_gone` for
    each claim that is removed, at that instant or in the next `observe`. It may add checks that make sense only for
    this broker, and report them with `Monitor.violation`.
    """

    @property
    def faults(self) -> Mapping[str, Fault]:
        """All faults that the broker offers, by name. These names and arguments mean the same for every broker:

        * `crash(node)`, `pause(node, seconds=None)`: kill or stop a node's process. A broker that offers `pause` runs
          each node in a process of its own, whose clock may run at another rate.
        * `suspend(node, seconds=None)`: suspend a node's machine: its process stops, and so does its clock.
        * `partition(node)`: cut a node off from the broker, both ways.
        * `delay(node, seconds)`: make everything between a node and the broker take this long, each way.
        * `lose_reply(node)`: apply the node's next write, but break its connection before the reply.
        * `expire(node)`: end a node's session early, and call `Monitor.void` with its identity.

        A broker may omit any of these, give them more arguments, or offer others. It must not use the names `drift` and
        `linger`, which are faults of the cluster itself.
        """
        ...

    @property
    def remedies(self) -> Mapping[str, Callable[..., None]]:
        """The remedies for single faults besides `heal`, by name. A broker with `pause` must have `resume(node)`."""
        ...

    @property
    def expiry_delay(self) -> float:
        """The maximum number of seconds by which a session may outlast its timeout."""
        ...

    def coordinator(self) -> Coordinator:
        """Make the coordinator for one node or for the client. All of them may share one."""
        ...

    def spawn(self, name: str, async_function: Callable[[], Awaitable[object]], *, rate: float = 1.0) -> Place:
        """Run the client or a node, and return the place where it runs.

        Args:
            name: for people.
            async_function: the function to run.
            rate: how fast its clock runs.

        Raises:
            ValueError: its clock cannot run at this rate.
        """
        ...

    def owner(self, task: str) -> tuple[str, int] | None:
        """Return the identity of the session that owns a task, and its fencing token.

        None if no session owns the task or the task has ended. It is called for every run that starts, so it must not
        cost more the more tasks there are.
        """
        ...

    def contents(self) -> BrokerContents:
        """Return the current contents."""
        ...

    def observe(self) -> int:
        """Report to the monitor what has happened since the last call, and return how often the contents have changed
        since the beginning. It is called after every step of the world, so it must be quick if nothing has happened."""
        ...

    def heal(self, node: str | None = None) -> None:
        """End all faults of one node's connections; with None, those of all nodes and of the servers."""
        ...

    def recover(self) -> None:
        """End every fault that still lasts: call `heal()`, and resume every paused node."""
        ...


class BrokerFactory(Protocol):
    """Makes a broker for a cluster: the broker's class, or a `functools.partial` of it with some options."""

    def __call__(self, context: SimulationContext, /) -> SimulatedBroker: ...
