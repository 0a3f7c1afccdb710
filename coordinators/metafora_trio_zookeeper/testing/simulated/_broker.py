"""ZooKeeperBroker: a simulated ensemble in a simulated cluster.

Every node is a separate simulated process with a real `ZooKeeperCoordinator`. Everything below the coordinator is
simulated: connections, servers, the network between them, and time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal

from metafora_trio.contract import LeaseTerms
from metafora_trio.testing.simulation import (
    NO_EARLY_EXPIRY,
    BrokerContents,
    Fault,
    NodeProcesses,
    Process,
    SimulationContext,
)
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._layout import GENERATION_EPOCH, Layout

from ._ensemble import SimulatedZooKeeper
from ._log_checker import LogChecker
from ._namespace_reader import NamespaceReader
from ._network import Way

__all__ = ["ZooKeeperBroker"]

_NAMESPACE, _BUCKETS = "/m", 2
_LATENCY = 0.001
"""Seconds from a node to a server, or back."""


class ZooKeeperBroker:
    """A `SimulatedBroker`, where the methods are documented. Pass this class, or
    `functools.partial(ZooKeeperBroker, servers=5)`, to a `SimulatedCluster`.

    Args:
        context: see `SimulationContext`.
        servers: the number of ZooKeeper servers.
        generation: the generation of the namespace, of which tokens are made; see `Layout`.

    Attributes:
        zookeeper: the simulated ensemble.
        tokens: for each task, the highest token that has owned it so far.
        faults: besides those documented at `SimulatedBroker.faults`: `isolate_server(server)` cuts a server off from
            the others, `lag_server(server, seconds)` delays all writes at a server, `kill_server(server)` kills it
            like SIGKILL, and `elect(out)` changes the leader, so that no client is served for `out` seconds.
            `remove_node(node)` deletes the node's znode, as an operator can; its session and its claims stay.
            `stall_connect(node, seconds)` pauses a node as soon as it has sent the first message of its next
            connection. `start_sequences(number)` sets the first sequence number of all directories to be created.
            `partition` takes a `server` (None: all) and a `way` ("to" the servers, "from" them, or "both").
            `limit_timeout(server, longest)` sets the longest session timeout that a server grants, for good.
            `refuse(task, what)` makes the ACLs forbid "reading" the task or "ending" it, until `heal()`.
        remedies: `resume(node)` and `start_server(server)`.
    """

    def __init__(self, context: SimulationContext, *, servers: int = 3, generation: int = 0) -> None:
        self.zookeeper: SimulatedZooKeeper = SimulatedZooKeeper(context.world, servers=servers, rng=context.fork())
        self._context = context
        self._now = GENERATION_EPOCH + generation
        self._processes = NodeProcesses(context, LeaseTerms(context.session_timeout).heartbeat_period)
        self._layout = layout = Layout(_NAMESPACE, _BUCKETS)
        self._reader = NamespaceReader(self.zookeeper, layout)
        self._checker = LogChecker(self.zookeeper, layout, self._reader, context.monitor, context.expectations)
        self.tokens: dict[str, int] = self._checker.tokens
        faults: Mapping[str, Fault] = {
            **self._processes.faults,
            "partition": Fault(self._partition),
            "delay": Fault(self._delay),
            "lose_reply": Fault(self._lose_reply),
            "expire": Fault(self._expire, NO_EARLY_EXPIRY),
            "remove_node": Fault(self._remove_node),
            "stall_connect": Fault(self._stall_connect),
            "isolate_server": Fault(lambda server: self.zookeeper.isolate_server(server)),
            "lag_server": Fault(lambda server, seconds: self.zookeeper.lag_server(server, seconds)),
            "kill_server": Fault(lambda server: self.zookeeper.kill_server(server)),
            "elect": Fault(self.zookeeper.elect),
        }
        # These end no session: a refusal concerns one task only, and other numbers and limits change nothing at once.
        self.faults: Mapping[str, Fault] = {
            **{name: self._disturbing(fault) for name, fault in faults.items()},
            "refuse": Fault(self._refuse),
            "start_sequences": Fault(lambda number: self.zookeeper.start_sequences(number)),
            "limit_timeout": Fault(lambda server, longest: self.zookeeper.limit_timeout(server, longest)),
        }
        self.remedies: Mapping[str, Callable[..., None]] = {
            **self._processes.remedies,
            "start_server": lambda server: self.zookeeper.start_server(server),
        }

    @property
    def expiry_delay(self) -> float:
        return self.zookeeper.tick

    def coordinator(self) -> ZooKeeperCoordinator:
        timeout = self._context.session_timeout
        return ZooKeeperCoordinator(
            "simulated:2181",
            namespace=_NAMESPACE,
            session_timeout=timeout,
            buckets=_BUCKETS,
            connect=lambda: self.zookeeper.connect(timeout),
            rng=self._context.fork(),
            suspended=self._suspended,
            now=lambda: self._now,
            watched=False,
        )

    def spawn(self, name: str, async_function: Callable[[], Awaitable[object]], *, rate: float = 1.0) -> Process:
        return self._processes.spawn(name, async_function, rate=rate)

    def owner(self, task: str) -> tuple[str, int] | None:
        return self._reader.owner(task)

    def contents(self) -> BrokerContents:
        return self._reader.contents()

    def observe(self) -> int:
        self._checker.read_log()
        return self._checker.changes

    def heal(self, node: str | None = None) -> None:
        if node is not None:
            self.zookeeper.heal(self._processes.process_of(node))
            return
        self.zookeeper.heal()
        self.zookeeper.heal_servers()
        self._permit()
        for name in self._processes.names:
            self._delay(name, _LATENCY)

    def recover(self) -> None:
        self.heal()
        self._processes.resume_all()

    def servers_of(self, node: str) -> list[int]:
        """Return the servers that a node is connected or connecting to."""
        return self.zookeeper.servers_of(self._processes.process_of(node))

    def _suspended(self) -> float:
        process = self._context.world.current
        assert process is not None, "only processes have a clock"
        return process.suspended

    # ---- faults

    def _disturbing(self, fault: Fault) -> Fault:
        def inflict(**how: Any) -> None:
            self._checker.calm = False
            fault.inflict(**how)

        return Fault(inflict, fault.breaks)

    def _refuse(self, task: str, what: Literal["reading", "ending"]) -> None:
        self._context.expectations.refused.add(task)
        if what == "reading":
            self.zookeeper.forbidden.reading.add(self._layout.task_path(task))
        else:
            self.zookeeper.forbidden.writing.add(self._layout.state_path(task))

    def _permit(self) -> None:
        """Let nodes read and end all tasks again. They may try again only later, but the time doubles with each
        refusal, so it is no longer than all the time before."""
        forbidden, expectations = self.zookeeper.forbidden, self._context.expectations
        forbidden.reading.clear()
        forbidden.writing.clear()
        if expectations.refused:
            expectations.refused_alone = min(60.0, self._context.world.now + 1.0)

    def _partition(self, node: str, server: int | None = None, way: Way = "both") -> None:
        self.zookeeper.cut(self._processes.process_of(node), server, way)

    def _delay(self, node: str, seconds: float) -> None:
        self.zookeeper.delay(self._processes.process_of(node), seconds)

    def _lose_reply(self, node: str) -> None:
        self.zookeeper.lose_replies(self._processes.process_of(node))

    def _stall_connect(self, node: str, seconds: float) -> None:
        pause = partial(self._processes.pause, node, seconds)
        self.zookeeper.at_connect(self._processes.process_of(node), pause)

    def _remove_node(self, node: str) -> None:
        for identity in self._reader.sessions_of(node):
            self.zookeeper.delete(self._layout.node_path(identity))

    def _expire(self, node: str) -> None:
        for identity, session in self._reader.sessions_of(node).items():
            self._context.monitor.void(identity)
            self.zookeeper.expire(session)
