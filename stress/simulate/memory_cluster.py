"""The same for `MemoryCoordinator`: nodes and a client in one simulated process, and what can happen to them there.

Its methods are those of `SimulatedCluster` as far as they make sense: one process has no links between its parts, and
cannot be stopped in part, but sessions can be cut off, ended, and die.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import outcome
import trio

from metafora_trio import Command, CommandName, Consumer, MemoryCoordinator, NodeNotFound, Task
from metafora_trio._memory.store import Store  # noqa: TID251 - until the clusters are one
from metafora_trio.contract import ClaimRemoved, TaskRemoved, ViewEvent
from metafora_trio.testing.simulation import Expectations, Monitor, SimulatedClient, WatchedHandler, World

__all__ = ["MemoryCluster"]

_LATENCY = 0.002
_CALM = 3.0


class MemoryNode:
    """A node, which is its own `Place` for the monitor though it shares its process.

    Attributes:
        dead: whether it was killed.
        ended: whether it has left.
        frozen: never.
    """

    frozen = False

    def __init__(self, name: str, consumer: Consumer) -> None:
        self.name: str = name
        self.consumer = consumer
        self.scope = trio.CancelScope()
        self.dead: bool = False
        self.ended: bool = False
        self.may_leave: bool = False

    @property
    def running(self) -> bool:
        return not (self.dead or self.ended)

    @property
    def leaving(self) -> bool:
        return self.running and self.consumer.statistics().draining

    @property
    def identity(self) -> str | None:
        return self.consumer.statistics().node if self.running else None


class MemoryCluster:
    """See the module, and `SimulatedCluster` for what the methods do."""

    def __init__(self, *, seed: int = 0, session_timeout: float = 4.0) -> None:
        self.world = World(seed)
        self.session_timeout = session_timeout
        self.nodes: dict[str, MemoryNode] = {}
        self.faults: Counter[str] = Counter()
        self.expectations = Expectations()
        self.monitor = Monitor(self.world, self._owner)
        self._rng = random.Random(seed)
        self._coordinator = MemoryCoordinator(latency=_LATENCY, session_timeout=session_timeout)
        self._store = self._coordinator._store = _WatchedStore(self.monitor, self.expectations)
        self._lingering: dict[str, tuple[float, bool]] = {}
        self._client = SimulatedClient(self._coordinator, self.expectations, self.monitor)
        self._nursery: trio.Nursery | None = None
        self._process = self._client.process = self.world.spawn("nodes", self._be)
        self.run_for(0.0)

    def __enter__(self) -> MemoryCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.world.close()

    # ---- time

    def run_for(self, seconds: float) -> None:
        self.run_until(lambda: False, within=seconds)

    def run_until(self, predicate: Callable[[], object], within: float) -> bool:
        found = self.world.run_until(lambda: predicate() or self.monitor.violations, within)
        for process in self.world.processes:
            if isinstance(process.outcome, outcome.Error):
                raise process.outcome.error
        self.monitor.check()
        return found

    # ---- nodes

    def runs(self, node: str) -> bool:
        return node in self.nodes and self.nodes[node].running

    def start(self) -> None:
        name = f"n{len(self.nodes) + 1}"
        handler = WatchedHandler(self.monitor, self._lingering)
        rng = random.Random(self._rng.random())
        node = self.nodes[name] = MemoryNode(name, Consumer(self._coordinator, handler, name=name, rng=rng))
        handler.place = node
        assert self._nursery is not None
        self._process.call(self._nursery.start_soon, self._be_node, node)

    def drain(self, node: str) -> None:
        self.nodes[node].may_leave = True
        self._process.call(self.nodes[node].consumer.start_draining)

    def crash(self, node: str) -> None:
        self.faults["crash"] += 1
        dying = self.nodes[node]
        self._disturb(node, self._coordinator.crash)
        dying.dead = True
        self.monitor.kill(dying)
        self._process.call(dying.scope.cancel)

    def partition(self, node: str) -> None:
        self.faults["partition"] += 1
        self._disturb(node, self._coordinator.partition)

    def heal(self, node: str | None = None) -> None:
        for name in [node] if node is not None else self.nodes:
            self._disturb(name, self._coordinator.heal)

    def expire(self, node: str) -> None:
        self.faults["expire"] += 1
        if identity := self.nodes[node].identity:
            self.monitor.void(identity)
        self._disturb(node, self._coordinator.expire)

    def _disturb(self, node: str, disturb: Callable[[str], None]) -> None:
        if identity := self.nodes[node].identity:

            def carry_out() -> None:
                try:
                    disturb(identity)
                except NodeNotFound:  # its session has just ended
                    return

            self._process.call(carry_out)

    # ---- tasks

    def submit(self, task: str, *, again: bool = False) -> None:
        self._client.ask(lambda client: client.submit(Task(task), again=again), task)

    def delete(self, task: str) -> None:
        self._client.ask(lambda client: client.delete(task), task, there=False)

    def stop_task(self, task: str) -> None:
        self.expectations.stopped[task] += 1
        self._client.ask(lambda client: client.stop_task(task))

    def send(self, node: str, command: str) -> None:
        self.nodes[node].may_leave |= command == CommandName.DRAIN
        self._client.ask(lambda client: client.send(node, Command(command)))

    def finish(self, task: str, *, fail: bool = False) -> None:
        for run in list(self.monitor.runs[task]):
            run.fails = fail
            self._process.call(run.end.set)

    def linger(self, task: str, seconds: float, *, shield: bool = False) -> None:
        self.faults["linger"] += 1
        self._lingering[task] = seconds, shield

    # ---- the end

    def settle(self) -> None:
        self.heal()
        self._lingering.clear()
        if not self.run_until(lambda: not (self._client.outstanding or self._store._queued_commands), within=10.0):
            asked = f"{self._client.outstanding} requests, {len(self._store._queued_commands)} commands"
            self.monitor.violation(f"not answered 10 s after the last disturbance: {asked}")
            self.monitor.check()
        for node in self.nodes.values():
            self._process.call(node.consumer.unfreeze)
        bound = 2 * self.session_timeout + 5 + self.expectations.left_alone
        if all(node.leaving for node in self.nodes.values() if node.running):
            if not self.run_until(lambda: not any(node.running for node in self.nodes.values()), within=bound):
                staying = [node.name for node in self.nodes.values() if node.running]
                self.monitor.violation(f"nobody is left to hand over to, and {staying} have not left after {bound:g} s")
                self.monitor.check()
            self.start()
        end = self.world.now + bound
        while True:
            if not self.run_until(lambda: not any(self._unrest()), within=max(0.0, end - self.world.now)):
                problems = "; ".join(self._unrest()) or "it comes to rest, and moves again"
                self.monitor.violation(f"not at rest {bound:g} s after the last disturbance: {problems}")
                self.monitor.check()
            seen = self.monitor.changes, self._store.changes
            if not self.run_until(lambda: seen != (self.monitor.changes, self._store.changes), within=_CALM):  # noqa: B023 - called in here
                return

    def _unrest(self) -> Iterator[str]:
        truth, live = self._store.view, [node for node in self.nodes.values() if node.running]
        loads = {node.name: 0 for node in live if not node.leaving}
        for task in {*truth.tasks, *truth.claimed_tasks()}:
            queue, runs = truth.queue(task), self.monitor.runs[task]
            if task not in truth.tasks or truth.deleted(task):
                yield f"{task} is over, and not gone: {queue}"
            elif [(claim.node, claim.seq) for claim in queue] != [(run.node, run.token) for run in runs]:
                yield f"{task} is owned by {queue}, and runs: {[str(run) for run in runs]}"
            elif len(runs) != 1 or runs[0].place.name not in loads:
                yield f"{task} runs on {[run.place.name for run in runs]}"
            else:
                loads[runs[0].place.name] += 1
        if loads and max(loads.values()) - min(loads.values()) > 1:
            yield f"the load is uneven: {loads}"
        if set(truth.nodes) != (members := {node.identity for node in live}):
            yield f"the members are {set(truth.nodes)}, and the nodes that run are {members}"
        yield from (f"{node.name} has not left" for node in live if node.leaving)
        yield from (f"{info.identity} is frozen" for info in truth.nodes.values() if info.frozen)
        yield from (f"the command {queued} is left over" for queued in self._store._queued_commands)
        for task, there in self.expectations.there.items():
            if there != (task in self._store.states):
                yield f"{task} is {'forgotten' if there else 'still there'}"

    # ----

    def _owner(self, task: str) -> tuple[str, int] | None:
        truth = self._store.view
        head = truth.head(task)
        return None if head is None or task not in truth.tasks else (head.node, head.seq)

    async def _be(self) -> None:
        async with trio.open_nursery() as self._nursery:
            await self._client.run()

    async def _be_node(self, node: MemoryNode) -> None:
        with node.scope:
            await node.consumer.run()
        node.ended = True
        if not (node.dead or node.may_leave):
            self.monitor.violation(f"{node.name} has left, and nobody told it to")


class _WatchedStore(Store):
    """A store that tells a monitor of each transaction, at its instant."""

    def __init__(self, monitor: Monitor, expectations: Expectations) -> None:
        super().__init__()
        self.changes = 0
        self._monitor = monitor
        self._expectations = expectations

    def _commit(self, *events: ViewEvent) -> None:
        gone = [event.claim for event in events if isinstance(event, ClaimRemoved)]
        super()._commit(*events)
        self.changes += 1
        for claim in gone:
            self._monitor.claim_gone(claim.task, claim.node, claim.seq)
        for event in events:
            if isinstance(event, TaskRemoved):
                for run in filter(self._monitor.counts, self._monitor.runs[event.task]):
                    self._monitor.violation(f"{event.task} ended while {run} still runs")
                ended = any((event.task, claim.seq) in self._monitor.ended for claim in gone)
                if not ended and event.task not in self._expectations.deleted:
                    self._monitor.violation(f"{event.task} ended, and neither did its handler nor did anyone delete it")
