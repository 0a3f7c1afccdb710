"""SimulatedCluster: real consumers on a simulated broker, on virtual time, with every fault at the test's command.

Every node is a real `Consumer`; one more place runs a real client. A test calls plain methods, one for each event or
fault, and lets time pass with `run_for`, which raises `BrokenPromise` as soon as a promise is broken.
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
from metafora_trio.events import Event

from ._broker import BrokerFactory, SimulatedBroker, SimulationContext
from ._client import CLIENT, Expectations, SimulatedClient
from ._faults import CLOCKS_DRIFT_LITTLE, SCOPES_CLOSE_IN_TIME
from ._handler import WatchedHandler
from ._hindrances import FailingObserver, RefusingBalancer
from ._memory_broker import MemoryBroker
from ._monitor import Monitor
from ._node import SimulatedNode
from ._settled import SettledCheck
from ._settling import settle
from ._world import Process, World

__all__ = ["SimulatedCluster"]

_MAX_DRIFT = 0.001


class SimulatedCluster:
    """A cluster in a world of its own. Use it as a context manager.

    Args:
        handler: executes the tasks. By default a task runs until `finish` ends it.
        nodes: how many nodes to start. They are called n1, n2, ...
        seed: seeds all random numbers. The same calls with the same seed make the same history.
        session_timeout: T, in seconds.
        broker: makes the broker, which determines the available faults.
        options: further arguments for each `Consumer`. Its `clock` is a `TrioClock` unless you pass another, so the
            times that nodes record are virtual, too.

    Attributes:
        world: virtual time, and the processes in it.
        broker: the simulated broker.
        client: submits tasks and sends commands.
        monitor: records runs and violations.
        expectations: the clients' requests.
        nodes: every node ever started, by name.
        fault_counts: how often each fault was inflicted, by name.
        assumptions: the assumption that each fault breaks, by the name of the fault; empty for most.
        steps: every step that a script may contain, by name.
        changes: how often the contents of the broker had changed when the cluster last looked.
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
        self.fault_counts: Counter[str] = Counter()
        self.expectations: Expectations = Expectations()
        self.monitor: Monitor = Monitor(self.world, lambda task: self.broker.owner(task))
        self._handler = handler
        self._lingering: dict[str, tuple[float, bool]] = {}
        self._options = options
        self.changes: int = 0
        with ExitStack() as undo:  # if the broker fails, undo the world's changes to this thread
            undo.callback(self.world.close)
            self.broker: SimulatedBroker = broker(self._context())
            self.assumptions: Mapping[str, str] = {
                "drift": CLOCKS_DRIFT_LITTLE,
                "linger": SCOPES_CLOSE_IN_TIME,
                **{name: fault.breaks for name, fault in self.broker.faults.items()},
            }
            self.steps: Mapping[str, Callable[..., object]] = self._all_steps()
            self.client: SimulatedClient = SimulatedClient(self.broker.coordinator(), self.expectations, self.monitor)
            self.client.place = self.broker.spawn(CLIENT, self.client.run)
            self._check = SettledCheck(
                self.nodes, self.client, self.expectations, self.broker, self.monitor, lambda: self.world.now
            )
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
            "cancel": self.cancel,
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
        """End all processes, without any further checks."""
        self.world.close()

    # ---- time

    def run_for(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            BrokenPromise: a promise was broken. Virtual time stays at that instant.
        """
        self.run_until(lambda: False, within=seconds)

    def run_until(self, predicate: Callable[[], object], within: float) -> bool:
        """Let time pass until `predicate` is true, for at most `within` seconds; return whether it is true.

        Raises:
            BrokenPromise: as `run_for`.
        """

        def look() -> object:
            self.changes = self.broker.observe()
            return self.monitor.violations or predicate()

        found = self.world.run_until(look, within)
        self._check_processes()
        self.monitor.check()
        return found

    # ---- queries

    def owner(self, task: str) -> str | None:
        """Return the name of the node that owns a task, according to the broker, or None if no node does."""
        owner = self.broker.owner(task)
        return None if owner is None else node_name(owner[0])

    def runs(self, node: str) -> bool:
        """Return whether a node of this name exists and has neither died nor left."""
        return node in self.nodes and self.nodes[node].running

    def can_strike(self, name: str) -> bool:
        """Return whether faults can strike this node: it runs, or it is "client" and has a process of its own."""
        return self.runs(name) or (name == CLIENT and isinstance(self.client.place, Process))

    def state(self, task: str) -> StateName | None:
        """Return the recorded state of a task, or None if the task is not known."""
        return self.broker.contents().states.get(task)

    def run_until_running(self, *tasks: str, within: float = 30.0) -> None:
        """Let time pass until all these tasks run somewhere.

        Raises:
            TimeoutError: some of them do not run within `within` seconds.
            BrokenPromise: as `run_for`.
        """
        if not self.run_until(lambda: all(self.monitor.runs[task] for task in tasks), within):
            waiting = [task for task in tasks if not self.monitor.runs[task]]
            raise TimeoutError(f"not running within {within:g} s: {', '.join(waiting)}")

    # ---- nodes

    def start(
        self, rate: float = 1.0, *, refusals: int = 0, fails_after: int | None = None, **options: Any
    ) -> SimulatedNode:
        """Start one more node.

        Args:
            rate: how fast its clock runs. A drift of more than 0.1 % breaks an assumption.
            refusals: how often its balancer refuses each task before the node may claim it.
            fails_after: after how many events one of its observers raises.
            options: further arguments for its `Consumer`.

        Raises:
            ValueError: nodes of this broker cannot have clocks of their own.
        """
        name = f"n{len(self.nodes) + 1}"
        options = {"clock": TrioClock(), **self._options, **options}
        handler = WatchedHandler(
            self.monitor,
            self.expectations,
            self.fault_counts,
            self._lingering,
            self._handler,
            may_release="balancer" in options,
        )

        def observe(event: Event) -> None:
            self.monitor.saw(event, handler.place)

        failing = () if fails_after is None else (FailingObserver(fails_after),)
        options["observers"] = (*failing, observe, *options.get("observers", ()))
        if refusing := RefusingBalancer(refusals) if refusals else None:
            options["balancer"] = refusing
        consumer = Consumer(self.broker.coordinator(), handler, name=name, rng=self._fork(), **options)
        handler.place = self.broker.spawn(name, partial(self._be_node, consumer), rate=rate)
        node = self.nodes[name] = SimulatedNode(consumer, handler.place, refusing)
        if abs(rate - 1) > _MAX_DRIFT:
            self.monitor.void(name)
            self.fault_counts["drift"] += 1
        return node

    def drain(self, node: str) -> None:
        """Drain a node: it hands its tasks over and leaves."""
        self.expectations.leaving.add(node)
        self.nodes[node].drain()

    def cancel(self, node: str) -> None:
        """Cancel a node from outside, as the end of a program does."""
        self.expectations.leaving.add(node)
        self.nodes[node].cancel()

    # ---- faults: each method raises ValueError if the broker does not offer its fault

    def inflict(self, fault: str, **how: Any) -> None:
        """Inflict a fault of the broker: `inflict("kill_server", server=1)`.

        Args:
            fault: a name in `broker.faults`.
            how: its arguments. As `node`, most brokers accept "client", too.

        Raises:
            ValueError: the broker has no such fault, or the node does not run.
        """
        found = self.broker.faults.get(fault)
        if found is None:
            raise ValueError(f"this broker has no fault {fault!r}, only: {', '.join(sorted(self.broker.faults))}")
        if "node" in how and not self.can_strike(how["node"]):
            raise ValueError(f"{how['node']} does not run")
        self.fault_counts[fault] += 1
        found.inflict(**how)

    def crash(self, node: str) -> None:
        """Kill a node: SIGKILL."""
        self.inflict("crash", node=node)

    def pause(self, node: str, seconds: float | None = None) -> None:
        """Stop a node's process (SIGSTOP), and resume it after some seconds (SIGCONT) unless that is None."""
        self.inflict("pause", node=node, seconds=seconds)

    def resume(self, node: str) -> None:
        """Resume a paused node: SIGCONT."""
        self.remedy("resume", node=node)

    def partition(self, node: str, **how: Any) -> None:
        """Cut a node off from the broker. Some brokers take more arguments, such as a single direction."""
        self.inflict("partition", node=node, **how)

    def delay(self, node: str, seconds: float) -> None:
        """Make everything between a node and the broker take this long, each way."""
        self.inflict("delay", node=node, seconds=seconds)

    def lose_reply(self, node: str) -> None:
        """Apply the next write of a node, but break its connection before the reply."""
        self.inflict("lose_reply", node=node)

    def expire(self, node: str) -> None:
        """End a node's session early, as an operator can. This breaks an assumption: two nodes may then run the same
        task for a while, and only the fencing token tells them apart."""
        self.inflict("expire", node=node)

    def remedy(self, remedy: str, **how: Any) -> None:
        """End a single fault: `remedy("start_server", server=1)`.

        Args:
            remedy: a name in `broker.remedies`.
            how: its arguments.

        Raises:
            ValueError: the broker has no such remedy.
        """
        found = self.broker.remedies.get(remedy)
        if found is None:
            raise ValueError(f"this broker has no remedy {remedy!r}, only: {', '.join(sorted(self.broker.remedies))}")
        found(**how)

    def heal(self, node: str | None = None) -> None:
        """Repair the connections of a node; with None, those of all nodes, and the servers."""
        self.broker.heal(node)

    # ---- tasks

    def submit(self, task: str, *, again: bool = False, **props: Any) -> None:
        """Have the client submit a task. With the default handler, its properties differ each time by default."""
        submissions = self.expectations.submissions
        if self._handler is None and not props:
            props = {"submission": submissions.count(task) + 1}
        submission, submitted = submissions.submit(task, props), Task(task, props)
        self.client.ask(lambda client: client.submit(submitted, again=again), task, submission=submission)

    def delete(self, task: str) -> None:
        """Have the client delete a task."""
        self.client.ask(lambda client: client.delete(task), task, there=False)

    def stop_task(self, task: str) -> None:
        """Have the client ask the owner of a task to give the task back."""
        self.expectations.stopped[task] += 1
        self.client.ask(lambda client: client.stop_task(task))

    def send(self, node: str, command: str) -> None:
        """Have the client send a command to a node: freeze, unfreeze, balance or drain."""
        if command == CommandName.DRAIN:
            self.expectations.leaving.add(node)
        self.client.ask(lambda client: client.send(node, Command(command)))

    def finish(self, task: str, *, fail: bool = False) -> None:
        """Make the default handler of a task, wherever it runs now, return (with `fail`: raise)."""
        for run in list(self.monitor.runs[task]):
            run.fails = fail
            run.place.call(run.end.set)

    def linger(self, task: str, seconds: float, *, shield: bool = False) -> None:
        """Make a task take longer to end, from now on.

        Args:
            task: the id of the task.
            seconds: how long it takes to end once it is cancelled.
            shield: whether it ignores the end of its lease, which breaks an assumption. Otherwise it shields itself
                with `task.cleanup()`, which lasts no longer than the lease.
        """
        self.fault_counts["linger"] += 1
        self._lingering[task] = seconds, shield

    # ---- the end

    def settle(self) -> None:
        """End every fault, and check that the cluster settles as promised: within 2 T + 1 tick + 5 s every task runs on
        one node, the load is even, nothing is left over, and nothing changes any more (for 3 s). A tick is
        `broker.expiry_delay`.

        The clients' requests disturb the cluster too, above all commands that freeze or drain a node. They have
        2 T + 10 s to be answered and carried out, and the time to settle begins only then. It is extended by the time
        for which a node leaves a task alone after it was asked to give it back.

        Raises:
            BrokenPromise: the cluster did not settle in time, or a promise was broken on the way.
        """
        self._lingering.clear()
        settle(self, self._check)

    # ----

    def _fork(self) -> random.Random:
        return random.Random(self._rng.random())

    def _check_processes(self) -> None:
        for process in self.world.processes:
            if isinstance(process.outcome, outcome.Error):
                raise process.outcome.error
        for node in self.nodes.values():
            if node.place.ended and not node.place.dead and node.name not in self.expectations.leaving:
                self.monitor.violation(f"{node.name} left without being told to")

    async def _be_node(self, consumer: Consumer) -> None:
        # Retry a failed first join, as a supervisor would, unless the node has been drained in the meantime.
        node = self.nodes[consumer.name]
        with node.scope:
            while not node.drained:
                try:
                    await consumer.run()
                    return
                except CoordinatorUnavailable:
                    await trio.sleep(1.0)
