"""MemoryBroker: `MemoryCoordinator` in a simulated cluster, and the shortest example of a `SimulatedBroker`.

Nodes and the client share one process with the broker. There are no connections to delay, and a node cannot be paused
by itself, but a node can crash, be cut off, or lose its session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from metafora_trio import Command, MemoryCoordinator
from metafora_trio._memory.store import Store
from metafora_trio.contract import Claim, ClaimRemoved, QueuedCommand, TaskRemoved, ViewEvent

from ._broker import BrokerContents, SimulationContext
from ._client import Expectations
from ._faults import NO_EARLY_EXPIRY, Fault
from ._hosts import SharedPlace, SharedProcess
from ._monitor import Monitor

__all__ = ["MemoryBroker"]

_LATENCY = 0.002
"""Seconds from a node to the store, or back."""


class MemoryBroker:
    """A broker in memory. `SimulatedBroker` documents its methods.

    Args:
        context: the objects that the cluster passes to its broker.
    """

    expiry_delay: float = 0.0

    def __init__(self, context: SimulationContext) -> None:
        self._context = context
        self._store = _ReportingStore(context.monitor, context.expectations)
        self._coordinator = _Coordinator(self._store, context.session_timeout)
        self._process = SharedProcess(context)
        self.faults: Mapping[str, Fault] = {
            "crash": Fault(self._crash),
            "partition": Fault(self._partition),
            "expire": Fault(self._expire, NO_EARLY_EXPIRY),
        }
        self.remedies: Mapping[str, Callable[..., None]] = {}

    def coordinator(self) -> MemoryCoordinator:
        return self._coordinator

    def spawn(self, name: str, async_function: Callable[[], Awaitable[object]], *, rate: float = 1.0) -> SharedPlace:
        return self._process.spawn(name, async_function, rate=rate)

    def owner(self, task: str) -> tuple[str, int] | None:
        view = self._store.view
        head = view.head(task)
        return None if head is None or task not in view.tasks else (head.node, head.seq)

    def contents(self) -> BrokerContents:
        store = self._store
        states = {task: state.state for task, state in store.states.items()}
        return BrokerContents(store.view, states, [queued.node for queued in store.commands])

    def observe(self) -> int:
        return self._store.changes  # the store itself reports each transaction at its instant

    def heal(self, node: str | None = None) -> None:
        for name in [node] if node is not None else self._context.nodes:
            self._disturb(name, self._coordinator.heal)

    def recover(self) -> None:
        self.heal()

    # ---- faults

    def _crash(self, node: str) -> None:
        self._disturb(node, self._coordinator.crash)
        place = self._context.nodes[node].place
        assert isinstance(place, SharedPlace)
        self._process.kill(place)

    def _partition(self, node: str) -> None:
        self._disturb(node, self._coordinator.partition)

    def _expire(self, node: str) -> None:
        if identity := self._context.nodes[node].identity:
            self._context.monitor.void(identity)
        self._disturb(node, self._coordinator.expire)

    def _disturb(self, node: str, disturb: Callable[[str], None]) -> None:
        found = self._context.nodes[node]
        if identity := found.identity:
            found.place.call(disturb, identity)


class _Coordinator(MemoryCoordinator):
    """A coordinator on a given store."""

    def __init__(self, store: Store, session_timeout: float) -> None:
        super().__init__(latency=_LATENCY, session_timeout=session_timeout)
        self._store = store


class _ReportingStore(Store):
    """A store that reports each transaction to a monitor, at its instant."""

    def __init__(self, monitor: Monitor, expectations: Expectations) -> None:
        super().__init__()
        self.changes = 0
        self._monitor = monitor
        self._expectations = expectations

    @property
    def commands(self) -> Sequence[QueuedCommand]:
        """The commands queued for their nodes."""
        return tuple(self._queued_commands.values())

    def queue_command(self, identity: str, command: Command) -> None:
        super().queue_command(identity, command)
        self.changes += 1

    def delete(self, task: str) -> bool:
        self.changes += 1  # also where only the state of an ended task goes, which no event shows
        return super().delete(task)

    def remove_command(self, queued: QueuedCommand) -> None:
        super().remove_command(queued)
        self.changes += 1

    def _commit(self, *events: ViewEvent) -> None:
        super()._commit(*events)
        self.changes += 1
        gone = [event.claim for event in events if isinstance(event, ClaimRemoved)]
        for claim in gone:
            self._monitor.claim_gone(claim.task, claim.node, claim.seq)
        for event in events:
            if isinstance(event, TaskRemoved):
                self._check_end(event.task, gone)

    def _check_end(self, task: str, claims: Sequence[Claim]) -> None:
        monitor = self._monitor
        for run in filter(monitor.counts, monitor.runs[task]):
            monitor.violation(f"{task} ended while {run} still runs")
        ended = any((task, claim.seq) in monitor.ended for claim in claims)
        if not ended and task not in self._expectations.deleted:
            monitor.violation(f"{task} ended, but its handler had not ended and no client had deleted it")
