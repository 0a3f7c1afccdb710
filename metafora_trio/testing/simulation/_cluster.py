"""SimulatedCluster: real consumers on a simulated broker, on virtual time, and everything that can happen to them.

Every node is a real `Consumer`; one more place runs a real client. A test calls plain methods, one for each thing that
can happen, and lets time pass by `run_for`, which raises `BrokenPromise` as soon as one of the promises is broken.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import outcome
import trio

from metafora_trio import Command, CommandName, Consumer, CoordinatorUnavailable, Handler, StateName, Task
from metafora_trio._clock import TrioClock
from metafora_trio.contract import node_name

from ._broker import BrokerFactory, SimulatedBroker, SimulationContext
from ._client import Expectations, SimulatedClient
from ._faults import CLOCKS_DRIFT_LITTLE, SCOPES_CLOSE_IN_TIME
from ._memory_broker import MemoryBroker
from ._monitor import Monitor
from ._node import SimulatedNode, WatchedHandler
from ._settled import SettledCheck
from ._world import World

__all__ = ["SimulatedCluster"]

_MAX_DRIFT = 0.001
_CALM = 3.0
"""Seconds for which nothing may move once the cluster has settled."""


class SimulatedCluster:
    """A cluster that lives in a world of its own. Use it as a context manager.

    Args:
        handler: executes the tasks. By default a task runs until `finish` ends it.
        nodes: how many to start; they are called n1, n2, ...
        seed: the source of all chance. The same calls on the same seed make the same history.
        session_timeout: T, in seconds.
        broker: makes the broker, which decides which faults there are.
        options: further arguments for each `Consumer`. Its `clock` is a `TrioClock` unless you pass another, so the
            dates that nodes record are of virtual time, too.

    Attributes:
        world: virtual time, and the processes in it.
        broker: the simulated broker.
        client: submits tasks and sends commands.
        monitor: what runs, and what was wrong.
        expectations: what clients have asked for.
        nodes: all there ever were, by name.
        faults: how often each fault was inflicted, by name.
        assumptions: which assumption each fault breaks, by the same names; empty for most.
        steps: every step that a script may have, by name.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        nodes: int = 0,
        seed: int = 0,
        session_timeout: float = 4.0,
        broker: BrokerFactory = MemoryBroker,
        **options: Any,
    ) -> None:
        self.world: World = World(seed)
        self._rng = random.Random(seed)
        self.session_timeout: float = session_timeout
        self.nodes: dict[str, SimulatedNode] = {}
        self.faults: Counter[str] = Counter()
        self.expectations: Expectations = Expectations()
        self.monitor: Monitor = Monitor(self.world, self._find_owner)
        self._handler = handler
        self._lingering: dict[str, tuple[float, bool]] = {}
        self._options = options
        self._changes = 0
        with ExitStack() as undo:  # what the world has changed in this thread must not outlive a broker that fails
            undo.callback(self.world.close)
            self.broker: SimulatedBroker = broker(self._context())
            self.assumptions: Mapping[str, str] = {
                "drift": CLOCKS_DRIFT_LITTLE,
                "linger": SCOPES_CLOSE_IN_TIME,
                **{name: fault.breaks for name, fault in self.broker.faults.items()},
            }
            self.steps: Mapping[str, Callable[..., object]] = self._all_steps()
            self.client: SimulatedClient = SimulatedClient(self.broker.coordinator(), self.expectations, self.monitor)
            self.client.place = self.broker.spawn("client", self.client.run)
            self._check = SettledCheck(self.nodes, self.client, self.expectations, self.broker, self.monitor)
            for _ in range(nodes):
                self.start()
            undo.pop_all()

    def _context(self) -> SimulationContext:
        return SimulationContext(
            world=self.world,
            monitor=self.monitor,
            expectations=self.expectations,
            nodes=self.nodes,
            session_timeout=self.session_timeout,
            fork=self._fork,
        )

    def _all_steps(self) -> Mapping[str, Callable[..., object]]:
        return {
            "run_for": self.run_for,
            "start": self.start,
            "drain": self.drain,
            "heal": self.heal,
            "submit": self.submit,
            "delete": self.delete,
            "stop_task": self.stop_task,
            "send": self.send,
            "finish": self.finish,
            "linger": self.linger,
            **{name: partial(self.inflict, name) for name in self.broker.faults},
            **self.broker.remedies,
        }

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it. Nothing is checked any more."""
        self.world.close()

    # ---- time

    def run_for(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            BrokenPromise: a promise was broken. Time has stopped at that moment.
        """
        self.run_until(lambda: False, within=seconds)

    def run_until(self, predicate: Callable[[], object], within: float) -> bool:
        """Let time pass until something is so, for at most `within` seconds; return whether it is so.

        Raises:
            BrokenPromise: as `run_for`.
        """

        def look() -> object:
            self._changes = self.broker.observe()
            return self.monitor.violations or predicate()

        found = self.world.run_until(look, within)
        self._check_processes()
        self.monitor.check()
        return found

    # ---- looking

    def owner(self, task: str) -> str | None:
        """Return the name of the node that owns a task, as the broker has it; None if no node does."""
        owner = self._find_owner(task)
        return None if owner is None else node_name(owner[0])

    def runs(self, node: str) -> bool:
        """Return whether there is a node of this name that has neither died nor left."""
        return node in self.nodes and self.nodes[node].running

    def state(self, task: str) -> StateName | None:
        """Return the recorded state of a task; None for one that is not known."""
        return self.broker.contents().states.get(task)

    def run_until_running(self, *tasks: str, within: float = 30.0) -> None:
        """Let time pass until all these tasks run somewhere.

        Raises:
            TimeoutError: they do not all run within this time.
            BrokenPromise: as `run_for`.
        """
        if not self.run_until(lambda: all(self.monitor.runs[task] for task in tasks), within):
            waiting = [task for task in tasks if not self.monitor.runs[task]]
            raise TimeoutError(f"not running within {within:g} s: {', '.join(waiting)}")

    # ---- nodes

    def start(self, rate: float = 1.0, **options: Any) -> SimulatedNode:
        """Start one more node.

        Args:
            rate: how fast its clock runs. A drift of more than 0.1 % breaks an assumption.
            options: arguments for its `Consumer`.

        Raises:
            ValueError: the broker's nodes cannot have clocks of their own.
        """
        name = f"n{len(self.nodes) + 1}"
        handler = WatchedHandler(self.monitor, self._lingering, self._handler)
        options = {"clock": TrioClock(), **self._options, **options}
        consumer = Consumer(self.broker.coordinator(), handler, name=name, rng=self._fork(), **options)
        handler.place = self.broker.spawn(name, partial(self._be_node, consumer), rate=rate)
        node = self.nodes[name] = SimulatedNode(consumer, handler.place)
        if abs(rate - 1) > _MAX_DRIFT:
            self.monitor.void(name)
            self.faults["drift"] += 1
        return node

    def drain(self, node: str) -> None:
        """Have a node leave politely."""
        self.expectations.leaving.add(node)
        self.nodes[node].drain()

    # ---- faults; a broker may lack some of those with a method, and then they raise ValueError

    def inflict(self, fault: str, **how: Any) -> None:
        """Inflict a fault of the broker: `inflict("kill_server", server=1)`.

        Args:
            fault: one of those in `broker.faults`.
            how: its arguments.

        Raises:
            ValueError: the broker has no such fault, or its node does not run.
        """
        found = self.broker.faults.get(fault)
        if found is None:
            raise ValueError(f"this broker has no fault {fault!r}, only: {', '.join(sorted(self.broker.faults))}")
        if "node" in how and not self.runs(how["node"]):
            raise ValueError(f"{how['node']} does not run")
        self.faults[fault] += 1
        found.inflict(**how)

    def crash(self, node: str) -> None:
        """Kill a node: SIGKILL."""
        self.inflict("crash", node=node)

    def pause(self, node: str, seconds: float | None = None) -> None:
        """Stop a node's process (SIGSTOP), and let it go on after some seconds (SIGCONT), unless that is None."""
        self.inflict("pause", node=node, seconds=seconds)

    def resume(self, node: str) -> None:
        """Let a paused node go on: SIGCONT."""
        self.remedy("resume", node=node)

    def partition(self, node: str, **how: Any) -> None:
        """Cut a node off from the broker. Some brokers have more arguments, such as a single direction."""
        self.inflict("partition", node=node, **how)

    def delay(self, node: str, seconds: float) -> None:
        """Have everything between a node and the broker take this long, each way."""
        self.inflict("delay", node=node, seconds=seconds)

    def lose_reply(self, node: str) -> None:
        """Let the next write of a node take effect, and break its connection before the reply."""
        self.inflict("lose_reply", node=node)

    def expire(self, node: str) -> None:
        """End a node's session before its time, as an operator can. It breaks an assumption: two nodes may then run one
        of its tasks for a while, and only the fencing token tells them apart."""
        self.inflict("expire", node=node)

    def remedy(self, remedy: str, **how: Any) -> None:
        """End a single fault: `remedy("start_server", server=1)`.

        Args:
            remedy: one of those in `broker.remedies`.
            how: its arguments.

        Raises:
            ValueError: the broker has no such remedy.
        """
        found = self.broker.remedies.get(remedy)
        if found is None:
            raise ValueError(f"this broker has no remedy {remedy!r}, only: {', '.join(sorted(self.broker.remedies))}")
        found(**how)

    def heal(self, node: str | None = None) -> None:
        """Repair the connections of a node; with None those of all, and the servers."""
        self.broker.heal(node)

    # ---- tasks

    def submit(self, task: str, *, again: bool = False, **props: Any) -> None:
        """Have the client submit a task."""
        submitted = Task(task, props)
        self.client.ask(lambda client: client.submit(submitted, again=again), task)

    def delete(self, task: str) -> None:
        """Have the client delete a task."""
        self.client.ask(lambda client: client.delete(task), task, there=False)

    def stop_task(self, task: str) -> None:
        """Have the client ask the owner of a task to give it back."""
        self.expectations.stopped[task] += 1
        self.client.ask(lambda client: client.stop_task(task))

    def send(self, node: str, command: str) -> None:
        """Have the client send a command to a node: freeze, unfreeze, balance or drain."""
        if command == CommandName.DRAIN:
            self.expectations.leaving.add(node)
        self.client.ask(lambda client: client.send(node, Command(command)))

    def finish(self, task: str, *, fail: bool = False) -> None:
        """Have the default handler of a task, wherever it runs now, return (or raise)."""
        for run in list(self.monitor.runs[task]):
            run.fails = fail
            run.place.call(run.end.set)

    def linger(self, task: str, seconds: float, *, shield: bool = False) -> None:
        """From now on a task takes this long to end once it is cancelled.

        Args:
            shield: it ignores that its lease has run out, which breaks an assumption; otherwise it shields itself by
                `task.cleanup()`.
        """
        self.faults["linger"] += 1
        self._lingering[task] = seconds, shield

    # ---- the end

    def settle(self) -> None:
        """End every fault, and wait for what is promised then: within 2 T + 1 tick + 5 s every task runs on one node,
        evenly spread, nothing is left over, and nothing moves any more (for 3 s). (A tick is `broker.expiry_delay`.)

        What clients have asked for disturbs the cluster, too, above all commands that freeze or drain a node. So this
        time begins when all of that has been answered and carried out, for which there are 2 T + 10 s. It is longer by
        the time for which a node leaves a task alone that it was asked to give back.

        Raises:
            BrokenPromise: it is not so, or a promise was broken on the way.
        """
        self.broker.recover()
        self._lingering.clear()
        check, patience = self._check, 2 * self.session_timeout + 10
        self._must(
            lambda: check.is_answered(self._changes),
            patience,
            lambda: f"not answered in time: {check.unanswered()}",
        )
        for node in self.nodes.values():
            node.place.call(node.consumer.unfreeze)
        bound = 2 * self.session_timeout + self.broker.expiry_delay + 5 + self.expectations.left_alone
        if all(node.leaving for node in self.nodes.values() if node.running):
            # Nobody is left to hand over to, so they let go. Then there is somebody again.
            self._must(lambda: not check.running(), bound, lambda: f"alone, and not left in time: {check.running()}")
            self.start()
        end = self.world.now + bound
        while True:
            self._must(
                lambda: check.is_settled(self._changes),
                end - self.world.now,
                lambda: f"not at rest in time: {check.problems() or 'it moves'}",
            )
            settled = self._moves
            if not self.run_until(lambda: settled != self._moves, within=_CALM):  # noqa: B023 - called in here
                return

    @property
    def _moves(self) -> tuple[int, int]:
        """Two numbers, at least one of which grows when anything moves."""
        return self.monitor.changes, self._changes

    def _must(self, predicate: Callable[[], object], within: float, problem: Callable[[], str]) -> None:
        """Let time pass until something is so. If it is not so within some seconds, a promise is broken."""
        if not self.run_until(predicate, max(0.0, within)):
            self.monitor.violation(problem())
            self.monitor.check()

    # ----

    def _fork(self) -> random.Random:
        return random.Random(self._rng.random())

    def _find_owner(self, task: str) -> tuple[str, int] | None:
        return self.broker.contents().owner(task)

    def _check_processes(self) -> None:
        for process in self.world.processes:
            if isinstance(process.outcome, outcome.Error):
                raise process.outcome.error
        for node in self.nodes.values():
            if node.place.ended and not node.place.dead and node.name not in self.expectations.leaving:
                self.monitor.violation(f"{node.name} has left, and nobody told it to")

    async def _be_node(self, consumer: Consumer) -> None:
        # A first join that fails is tried again, as a supervisor would do, unless the node was to leave meanwhile.
        while not self.nodes[consumer.name].drained:
            try:
                await consumer.run()
                return
            except CoordinatorUnavailable:
                await trio.sleep(1.0)
