"""The state machine of clusters on ZooKeeper: what can happen to processes, links and servers."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from metafora_trio_zookeeper.testing.simulated import SimulatedCluster, SimulatedZooKeeper

from .machine import CHOICE, MAX_NODES, MAX_TASKS, Machine, one_of
from .script import Broker

__all__ = ["ZooKeeperMachine"]

_RATES = st.sampled_from([1.0, 1.0, 1.0, 1.0009, 0.9991, 1.02, 0.98])


class ZooKeeperMachine(Machine):
    """With ZooKeeper: processes, links and servers of their own."""

    broker: Broker = "zookeeper"

    @property
    def zookeeper(self) -> SimulatedZooKeeper:
        assert isinstance(self.cluster, SimulatedCluster)
        return self.cluster.zookeeper

    def servers(self, *, alive: bool | None = None, linked: bool | None = None) -> list[int]:
        """The servers that are alive, or not; that reach the others, or not."""
        servers = self.zookeeper.servers.values()
        return [it.number for it in servers if alive in (None, it.alive) and linked in (None, it.linked)]

    def server_of(self, node: str) -> int:
        """The server that a node is connected to, or any."""
        assert isinstance(self.cluster, SimulatedCluster)
        return next(iter(self.zookeeper.servers_of(self.cluster.nodes[node].process)), 1)

    # ---- processes

    @precondition(lambda self: len(self.live(frozen=None)) < MAX_NODES)
    @rule(rate=_RATES)
    def start(self, rate: float) -> None:
        self.do("start", **({} if rate == 1.0 else {"rate": rate}))

    @precondition(lambda self: self.live())
    @rule(choice=CHOICE, timeouts=st.sampled_from([0.02, 0.3, 0.45, 0.6, 1.1, 2.0]))
    def pause(self, choice: int, timeouts: float) -> None:
        self.do("pause", node=self.pick(choice), seconds=timeouts * self.script.session_timeout)

    @precondition(lambda self: self.live())
    @rule(choice=CHOICE)
    def stop(self, choice: int) -> None:
        self.do("pause", node=self.pick(choice))

    @precondition(lambda self: self.live(frozen=True))
    @rule(choice=CHOICE)
    def resume(self, choice: int) -> None:
        self.do("resume", node=self.pick(choice, frozen=True))

    @precondition(lambda self: self.live() and self.running())
    @rule(
        choice=CHOICE,
        timeouts=st.sampled_from([0.2, 0.4, 0.44, 0.47]),
        cut=st.sampled_from(["both", "both", "node", "server"]),
        early=st.sampled_from([False, False, True]),
    )
    def stall_and_be_cut_off(self, choice: int, timeouts: float, cut: str, early: bool) -> None:
        """The hardest test of a lease, and rare by chance: a node is late, is answered, and then not heard any more."""
        self.calm_down()
        if not self.live():
            return
        node, stall = self.pick(choice), timeouts * self.script.session_timeout
        self.linger_all(5.0)
        self.do("pause", node=node, seconds=stall)
        self.do("run_for", seconds=stall / 2 if early else stall + 0.007)
        server = self.server_of(node)
        if cut != "server":
            self.do("partition", node=node)
        if cut != "node":
            self.do("isolate_server", server=server)
        self.do("run_for", seconds=1.5 * self.script.session_timeout)

    @precondition(lambda self: self.live() and len(self.tasks) <= MAX_TASKS - 2)
    @rule(choice=CHOICE, later=st.sampled_from([0.4, 0.58, 0.63, 0.7, 0.9]), timeouts=st.sampled_from([0.7, 1.5]))
    def freeze_before_the_answer(self, choice: int, later: float, timeouts: float) -> None:
        """A node is frozen with the answers to its claims on their way, and goes on too late."""
        self.calm_down()
        if not self.live():
            return
        node = self.pick(choice)
        self.do("delay", node=node, seconds=0.2)
        self.do("run_for", seconds=2.2)
        self.submit(2, 0.0)
        self.do("run_for", seconds=later)
        self.do("pause", node=node)
        self.do("run_for", seconds=0.2)
        self.do("partition", node=node)
        self.do("run_for", seconds=timeouts * self.script.session_timeout)
        self.do("resume", node=node)
        self.do("run_for", seconds=0.5)

    # ---- links

    @precondition(lambda self: self.live(frozen=None))
    @rule(choice=CHOICE, way=st.sampled_from(["both", "to", "from"]))
    def partition(self, choice: int, way: Literal["both", "to", "from"]) -> None:
        self.do("partition", node=self.pick(choice, frozen=None), way=way)

    @precondition(lambda self: self.live(frozen=None))
    @rule(choice=CHOICE, way=st.sampled_from(["both", "to", "from"]))
    def partition_from_its_server(self, choice: int, way: Literal["both", "to", "from"]) -> None:
        node = self.pick(choice, frozen=None)
        self.do("partition", node=node, server=self.server_of(node), way=way)

    @precondition(lambda self: self.live(frozen=None))
    @rule(choice=CHOICE, seconds=st.sampled_from([0.02, 0.2, 0.6, 1.0]))
    def delay(self, choice: int, seconds: float) -> None:
        self.do("delay", node=self.pick(choice, frozen=None), seconds=seconds)

    @precondition(lambda self: self.live() and len(self.tasks) <= MAX_TASKS - 2)
    @rule(
        choice=CHOICE,
        slow=st.sampled_from([0.2, 0.3, 0.6]),
        pause=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9, 1.2]),
        acts=st.lists(
            st.tuples(st.sampled_from(["stop_task", "finish"]), st.sampled_from([0.05, 0.2, 0.35, 0.5])),
            min_size=2,
            max_size=3,
        ),
    )
    def contest(self, choice: int, slow: float, pause: float, acts: list[tuple[str, float]]) -> None:
        """Two nodes claim the same task, as one sees late what the other does; the winner gives it up at once."""
        self.calm_down()
        if not self.live():
            return
        self.do("delay", node=self.pick(choice), seconds=slow)
        before = len(self.tasks)
        for _, gap in acts:
            self.submit(1, 0.0)
            self.do("run_for", seconds=gap)
        self.do("run_for", seconds=pause)
        for task, (act, gap) in zip(self.tasks[before:], acts, strict=False):
            self.do(act, task=task)
            self.do("run_for", seconds=gap / 2)
        self.do("run_for", seconds=1.0)

    @precondition(lambda self: self.live())
    @rule(choice=CHOICE)
    def lose_reply(self, choice: int) -> None:
        self.do("lose_reply", node=self.pick(choice))

    @precondition(lambda self: self.running())
    @rule(
        choice=CHOICE,
        act=st.sampled_from(["delete", "finish", "stop_task"]),
        lag=st.sampled_from([0.07, 0.15, 0.3]),
        moment=st.sampled_from([0.0, 0.05, 0.11, 0.17]),
    )
    def lose_the_reply_to(self, choice: int, act: str, lag: float, moment: float) -> None:
        """Nobody knows whether a write was done, and the next server may show the past."""
        self.calm_down()
        if not (runs := self.cluster.monitor.open_runs()):
            return
        run = one_of(runs, choice)
        for server in {1, 2, 3} - {self.server_of(run.place.name)}:
            self.do("lag_server", server=server, seconds=lag)
        self.do("run_for", seconds=moment)  # between two heartbeats, which a server has to know to be connected to
        self.do("lose_reply", node=run.place.name)
        self.do(act, task=run.task)
        self.do("run_for", seconds=1.0)

    # ---- servers

    @precondition(lambda self: self.servers(linked=True))
    @rule(choice=CHOICE)
    def isolate_server(self, choice: int) -> None:
        self.do("isolate_server", server=one_of(self.servers(linked=True), choice))

    @precondition(lambda self: self.live(frozen=None) and self.servers(linked=True))
    @rule(choice=CHOICE)
    def isolate_a_server_in_use(self, choice: int) -> None:
        server = self.server_of(self.pick(choice, frozen=None))
        self.do(
            "isolate_server", server=server if server in self.servers(linked=True) else self.servers(linked=True)[0]
        )

    @precondition(lambda self: self.zookeeper.leader in self.servers(linked=True))
    @rule()
    def isolate_leader(self) -> None:
        self.do("isolate_server", server=self.zookeeper.leader)

    @precondition(lambda self: self.servers(alive=True))
    @rule(choice=CHOICE, seconds=st.sampled_from([0.05, 0.5, 2.0]))
    def lag_server(self, choice: int, seconds: float) -> None:
        self.do("lag_server", server=one_of(self.servers(alive=True), choice), seconds=seconds)

    @precondition(lambda self: self.servers(alive=True))
    @rule(choice=CHOICE)
    def kill_server(self, choice: int) -> None:
        self.do("kill_server", server=one_of(self.servers(alive=True), choice))

    @precondition(lambda self: self.servers(alive=False))
    @rule(choice=CHOICE)
    def start_server(self, choice: int) -> None:
        self.do("start_server", server=one_of(self.servers(alive=False), choice))

    @precondition(lambda self: self.zookeeper.leader)
    @rule(out=st.sampled_from([0.2, 0.6, 2.0]))
    def elect(self, out: float) -> None:
        self.do("elect", out=out)
