"""SimulatedCluster: real consumers on a simulated ZooKeeper, in virtual time, and everything that can happen to them.

Every node is a process of a `World`, with a real `Consumer` on a real `ZooKeeperCoordinator`; one more process is a
client. Whoever tests calls plain methods, one for each thing that can happen, and lets time pass by `run_for`, which
raises `BrokenPromise` as soon as one of the promises is broken.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import outcome
import trio

from metafora_trio import Command, CommandName, Consumer, CoordinatorUnavailable, Handler, StateName, Task
from metafora_trio.testing.simulation import Monitor, Process, SimulatedClient, SimulatedNode, WatchedHandler, World
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._layout import Layout

from ._ensemble import SimulatedZooKeeper
from ._network import Way
from ._rest import Rest
from ._truth import Truth

__all__ = ["SimulatedCluster"]

_NAMESPACE, _BUCKETS = "/m", 2
_LATENCY = 0.001
"""Seconds from a node to a server, or back."""
_MAX_DRIFT = 0.001
_CALM = 3.0
"""Seconds for which nothing may move once the cluster has come to rest."""


class SimulatedCluster:
    """A cluster that lives in a world of its own. Use it as a context manager.

    Args:
        handler: what the nodes do with a task. By default it runs until `finish` ends it.
        nodes: how many to start; they are called n1, n2, ...
        seed: the source of all chance. The same calls on the same seed make the same history.
        session_timeout: T, in seconds.
        servers: how many ZooKeeper servers there are.
        options: further arguments for each `Consumer`.

    Attributes:
        world: virtual time, and the processes in it.
        zookeeper: the simulated ensemble.
        monitor: what runs, and what was wrong.
        nodes: all there ever were, by name.
        faults: how often each kind of disturbance was made, of those in `metafora_trio.testing.simulation`.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        nodes: int = 0,
        seed: int = 0,
        session_timeout: float = 4.0,
        servers: int = 3,
        **options: Any,
    ) -> None:
        self.world: World = World(seed)
        self._rng = random.Random(seed)
        self.zookeeper: SimulatedZooKeeper = SimulatedZooKeeper(self.world, servers=servers, rng=self._fork())
        self.session_timeout: float = session_timeout
        self.nodes: dict[str, SimulatedNode] = {}
        self.faults: Counter[str] = Counter()
        self._truth = Truth(self.zookeeper, Layout(_NAMESPACE, _BUCKETS))
        self.monitor: Monitor = Monitor(self.world, self._truth.owner)
        self._truth.monitor = self.monitor
        self._handler = handler
        self._lingering: dict[str, tuple[float, bool]] = {}
        self._options = options
        self._open = ExitStack()
        self._open.callback(self.world.close)
        self._client = SimulatedClient(self._coordinator(), self._truth.expectations, self.monitor)
        self._client.process = self.world.spawn("client", self._client.run)
        self._rest = Rest(self.nodes, self._client, self._truth, self.monitor)
        for _ in range(nodes):
            self.start()

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it. Nothing is checked any more."""
        self._open.close()

    # ---- time

    def run_for(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            BrokenPromise: a promise was broken; time stands where it was.
        """
        self.run_until(lambda: False, within=seconds)

    def run_until(self, predicate: Callable[[], object], within: float) -> bool:
        """Let time pass until something is so, for at most `within` seconds; returns whether it is so.

        Raises as `run_for` does.
        """

        def look() -> object:
            self._truth.read_log()
            return self.monitor.violations or predicate()

        found = self.world.run_until(look, within)
        self._check_processes()
        self.monitor.check()
        return found

    # ---- what is so

    def owner(self, task: str) -> str | None:
        """The name of the node that owns a task, from the truth of the servers; None if nobody does."""
        owner = self._truth.owner(task)
        return None if owner is None else owner[0].rpartition(".")[0]

    def runs(self, node: str) -> bool:
        """Whether there is a node of this name, and it has neither died nor left."""
        return node in self.nodes and self.nodes[node].running

    def state(self, task: str) -> StateName | None:
        """The recorded state of a task; None for one that is not known."""
        return self._truth.state(task)

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
        """
        name = f"n{len(self.nodes) + 1}"
        handler = WatchedHandler(self.monitor, self._lingering, self._handler)
        options = {**self._options, **options}
        consumer = Consumer(self._coordinator(), handler, name=name, rng=self._fork(), **options)
        process = handler.place = self.world.spawn(name, self._be_node, consumer, rate=rate)
        node = self.nodes[name] = SimulatedNode(consumer, process)
        if abs(rate - 1) > _MAX_DRIFT:
            self.monitor.void(name)
            self.faults["drift"] += 1
        return node

    def drain(self, node: str) -> None:
        """Have a node leave politely."""
        self._truth.expectations.leaving.add(node)
        self.nodes[node].drain()

    def crash(self, node: str) -> None:
        """SIGKILL."""
        process = self._disturb("crash", node)
        self.world.kill(process)
        self.monitor.kill(process)

    def pause(self, node: str, seconds: float | None = None) -> None:
        """SIGSTOP; and SIGCONT after a time, unless it is None."""
        process = self._disturb("pause", node)
        if not process.frozen:
            self.world.freeze(process)
            self.monitor.freeze(process)
        if seconds is not None:
            self.world.after(seconds, self.resume, node)

    def resume(self, node: str) -> None:
        """SIGCONT."""
        process = self.nodes[node].process
        if process.frozen and not process.dead:
            self.monitor.thaw(process)
            self.world.thaw(process)

    # ---- links

    def partition(self, node: str, server: int | None = None, way: Way = "both") -> None:
        """Cut a node off from one server (from all: None), in one direction or both."""
        self.zookeeper.cut(self._disturb("partition", node), server, way)

    def delay(self, node: str, seconds: float) -> None:
        """Have everything between a node and the servers take this long, each way."""
        self.zookeeper.delay(self._disturb("delay", node), seconds)

    def lose_reply(self, node: str) -> None:
        """The next write of a node takes effect, and its connection breaks before the reply."""
        self.zookeeper.lose_replies(self._disturb("lose_reply", node))

    def heal(self, node: str | None = None) -> None:
        """Mend the links of a node (of all, and the links between the servers: None)."""
        if node is not None:
            self.zookeeper.heal(self.nodes[node].process)
            return
        self.zookeeper.heal()
        self.zookeeper.heal_servers()
        for name in self.nodes:
            self.zookeeper.delay(self.nodes[name].process, _LATENCY)

    # ---- servers

    def isolate_server(self, server: int) -> None:
        """Cut a server off from the others."""
        self.faults["isolate_server"] += 1
        self.zookeeper.isolate_server(server)

    def lag_server(self, server: int, seconds: float) -> None:
        """Have a server show what was written only this much later."""
        self.faults["lag_server"] += 1
        self.zookeeper.lag_server(server, seconds)

    def kill_server(self, server: int) -> None:
        """SIGKILL of a server."""
        self.faults["kill_server"] += 1
        self.zookeeper.kill_server(server)

    def start_server(self, server: int) -> None:
        """Start a killed server again."""
        self.zookeeper.start_server(server)

    def elect(self, out: float) -> None:
        """Have the leader change; nobody is served for `out` seconds."""
        self.faults["elect"] += 1
        self.zookeeper.elect(out)

    def expire(self, node: str) -> None:
        """End a node's session before its time, as an operator can. It breaks an assumption: two nodes may then run one
        of its tasks for a while, and only the fencing token tells them apart."""
        self._disturb("expire", node)
        for identity, session in self._truth.sessions_of(node).items():
            self.monitor.void(identity)
            self.zookeeper.expire(session)

    # ---- tasks

    def submit(self, task: str, *, again: bool = False, **props: Any) -> None:
        """Have the client submit a task."""
        submitted = Task(task, props)
        self._client.ask(lambda client: client.submit(submitted, again=again), task)

    def delete(self, task: str) -> None:
        """Have the client delete a task."""
        self._client.ask(lambda client: client.delete(task), task, there=False)

    def stop_task(self, task: str) -> None:
        """Have the client ask the owner of a task to give it back."""
        self._truth.expectations.stopped[task] += 1
        self._client.ask(lambda client: client.stop_task(task))

    def send(self, node: str, command: str) -> None:
        """Have the client send a command to a node: freeze, unfreeze, balance or drain."""
        if command == CommandName.DRAIN:
            self._truth.expectations.leaving.add(node)
        self._client.ask(lambda client: client.send(node, Command(command)))

    def finish(self, task: str, *, fail: bool = False) -> None:
        """Have the default handler of a task, wherever it runs now, return (or raise)."""
        for run in list(self.monitor.runs[task]):
            run.fails = fail
            assert isinstance(run.place, Process)
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
        """End every disturbance, and wait for what is promised then: within 2 T + 1 tick + 5 s every task runs on one
        node, evenly spread, nothing is left over, and nothing moves any more (for 3 s).

        A disturbance is also what clients have asked for, commands that freeze or drain a node above all: this time
        begins when it has been answered and carried out, for which there are 2 T + 10 s; and it is as much longer as a
        node leaves a task alone that it was asked to give back.

        Raises:
            BrokenPromise: it is not so, or a promise was broken on the way.
        """
        self.heal()
        self._lingering.clear()
        for node in self.nodes.values():
            self.resume(node.name)
        rest, patience = self._rest, 2 * self.session_timeout + 10
        self._must(
            lambda: not any(rest.unanswered()), patience, lambda: f"not answered in time: {[*rest.unanswered()]}"
        )
        for node in self.nodes.values():
            node.process.call(node.consumer.unfreeze)
        bound = 2 * self.session_timeout + self.zookeeper.tick + 5 + self._truth.expectations.left_alone
        if all(node.leaving for node in self.nodes.values() if node.running):
            # Nobody is left to hand over to: they let go. Then there is somebody again.
            self._must(lambda: not rest.running(), bound, lambda: f"alone, and not left in time: {rest.running()}")
            self.start()
        end = self.world.now + bound
        while True:
            self._must(
                rest.reached, end - self.world.now, lambda: f"not at rest in time: {rest.missing() or 'it moves'}"
            )
            at_rest = self.monitor.changes, self._truth.changes
            if not self.run_until(lambda: at_rest != (self.monitor.changes, self._truth.changes), within=_CALM):  # noqa: B023 - called in here
                return

    def _must(self, predicate: Callable[[], object], within: float, problem: Callable[[], str]) -> None:
        """Let time pass until something is so; that it is not within this time breaks a promise."""
        if not self.run_until(predicate, max(0.0, within)):
            self.monitor.violation(problem())
            self.monitor.check()

    # ----

    def _fork(self) -> random.Random:
        return random.Random(self._rng.random())

    def _disturb(self, fault: str, node: str) -> Process:
        if not self.runs(node):
            raise ValueError(f"{node} does not run")
        self.faults[fault] += 1
        return self.nodes[node].process

    def _coordinator(self) -> ZooKeeperCoordinator:
        return ZooKeeperCoordinator(
            "simulated:2181",
            namespace=_NAMESPACE,
            session_timeout=self.session_timeout,
            buckets=_BUCKETS,
            connect=lambda: self.zookeeper.connect(self.session_timeout),
            rng=self._fork(),
            suspended=lambda: 0.0,
            watched=False,
        )

    def _check_processes(self) -> None:
        for process in self.world.processes:
            if isinstance(process.outcome, outcome.Error):
                raise process.outcome.error
        for node in self.nodes.values():
            if node.process.ended and node.name not in self._truth.expectations.leaving:
                self.monitor.violation(f"{node.name} has left, and nobody told it to")

    # ---- what the processes do

    async def _be_node(self, consumer: Consumer) -> None:
        # As who runs a node would: a first join that fails is tried again, unless the node was to leave meanwhile.
        while not self.nodes[consumer.name].drained:
            try:
                await consumer.run()
                return
            except CoordinatorUnavailable:
                await trio.sleep(1.0)
