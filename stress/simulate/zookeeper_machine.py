"""ZooKeeperMachine: the state machine for clusters on ZooKeeper, which adds faults of single links and of servers."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from metafora_trio.contract import LeaseTerms
from metafora_trio_zookeeper.testing.simulated import SimulatedZooKeeper, ZooKeeperBroker

from .machine import CHOICE, LEAST_GRANTED, MAX_NODES, one_of
from .races import RaceMachine

__all__ = ["ZooKeeperMachine"]


class ZooKeeperMachine(RaceMachine):
    """Draws steps on servers, and on the links to each of them, besides those of any broker."""

    @property
    def zookeeper_broker(self) -> ZooKeeperBroker:
        assert isinstance(self.cluster.broker, ZooKeeperBroker)
        return self.cluster.broker

    @property
    def zookeeper(self) -> SimulatedZooKeeper:
        return self.zookeeper_broker.zookeeper

    def servers(self, *, alive: bool | None = None, linked: bool | None = None) -> list[int]:
        """Return the servers that are alive or not, and linked to the others or not. None accepts both."""
        servers = self.zookeeper.servers.values()
        return [it.number for it in servers if alive in (None, it.alive) and linked in (None, it.linked)]

    def server_of(self, node: str) -> int:
        """Return the server that a node is connected to, or server 1 if there is none."""
        return next(iter(self.zookeeper_broker.servers_of(node)), 1)

    # ---- processes

    @precondition(lambda self: self.live() and self.running())
    @rule(
        choice=CHOICE,
        timeouts=st.sampled_from([0.2, 0.4, 0.44, 0.47]),
        cut=st.sampled_from(["both", "both", "node", "server"]),
        early=st.sampled_from([False, False, True]),
    )
    def stall_and_be_cut_off(self, choice: int, timeouts: float, cut: str, early: bool) -> None:
        """Stall a node, let it be answered, then cut it off: the hardest test of a lease, and rare by chance."""
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

    @precondition(lambda self: self.live() and self.running())
    @rule(
        choice=CHOICE,
        moment=st.sampled_from([0.0, 0.1, 0.2, 0.3]),
        timeouts=st.sampled_from([0.1, 0.3, 0.44, 0.47, 0.49]),
        cut=st.booleans(),
    )
    def stall_while_connecting(self, choice: int, moment: float, timeouts: float, cut: bool) -> None:
        """Stall a node between a connect and the first heartbeat, let that be answered, then cut the node off."""
        self.calm_down()
        if not self.live():
            return
        node, stall = self.pick(choice), timeouts * self.script.session_timeout
        self.linger_all(5.0)
        self.do("run_for", seconds=1.0 + moment)
        server = self.server_of(node)
        self.do("stall_connect", node=node, seconds=stall)
        self.do("kill_server", server=server)
        self.do("run_for", seconds=0.1)
        self.do("start_server", server=server)  # without it, no session expires once another is cut off
        self.do("run_for", seconds=stall - 0.1 + 0.008)
        if cut:
            server = self.server_of(node)
            self.do("partition", node=node)
            self.do("isolate_server", server=server)
        self.do("run_for", seconds=1.5 * self.script.session_timeout)

    @precondition(lambda self: self.live() and self.running())
    @rule(
        choice=CHOICE,
        moment=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
        timeouts=st.sampled_from([0.6, 1.1, 2.0]),
        cut=st.booleans(),
    )
    def suspend_and_be_cut_off(self, choice: int, moment: float, timeouts: float, cut: bool) -> None:
        """Suspend a node's machine, and perhaps let nothing reach it when it wakes: it must notice by itself."""
        self.calm_down()
        if not self.live():
            return
        node, timeout = self.pick(choice), self.script.session_timeout
        self.linger_all(5.0)
        self.do("run_for", seconds=moment * LeaseTerms(timeout).heartbeat_period)
        self.do("suspend", node=node, seconds=timeouts * timeout)
        self.do("run_for", seconds=0.1)
        if cut:
            self.do("partition", node=node)
        self.do("run_for", seconds=(timeouts + 1.0) * timeout)

    @precondition(lambda self: self.live() and self.running())
    @rule(
        choice=CHOICE,
        before=st.sampled_from([LEAST_GRANTED, 1.0, 1.0]),
        now=st.sampled_from([LEAST_GRANTED, LEAST_GRANTED, 1.0]),
        how=st.sampled_from(["stall", "stall", "elect"]),
    )
    def move_to_another_timeout(self, choice: int, before: float, now: float, how: str) -> None:
        """Let a node's session move to a server that grants another timeout, and then cut the node off."""
        self.calm_down()
        if not self.live():
            return
        node, timeout = self.pick(choice), self.script.session_timeout
        for share in (before, now):
            for server in self.servers():
                self.do("limit_timeout", server=server, longest=share * timeout)
            self.do("elect", out=0.2)
            self.do("run_for", seconds=1.0)
        self.linger_all(5.0)
        if how == "stall":
            self.do("pause", node=node, seconds=0.3 * timeout)
            self.do("run_for", seconds=0.3 * timeout + 0.007)
            self.do("isolate_server", server=self.server_of(node))
        self.do("partition", node=node)
        if how == "elect" and self.zookeeper.leader:
            self.do("elect", out=0.2)
        self.do("run_for", seconds=1.5 * timeout)

    @precondition(lambda self: self.live() and len(self.live(frozen=None)) < MAX_NODES)
    @rule(
        choice=CHOICE,
        slow=st.sampled_from([0.1, 0.2, 0.3]),
        moment=st.sampled_from([0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]),
        act=st.sampled_from(["start", "start", "crash", "freeze", "drain"]),
    )
    def news_during_a_resync(self, choice: int, slow: float, moment: float, act: str) -> None:
        """Let nodes come, go and change while another node lists everything again after a reconnect."""
        self.calm_down()
        if not self.live():
            return
        node = self.pick(choice)
        self.do("delay", node=node, seconds=slow)
        self.do("run_for", seconds=0.5)
        self.do("kill_server", server=self.server_of(node))
        self.do("run_for", seconds=moment)
        others = [other.name for other in self.live() if other.name != node and not other.leaving]
        if act == "start":
            self.do("start")
        elif act == "crash" and others:
            self.do("crash", node=others[0])
        elif others:
            self.do("send", node=others[0], command=act)
        self.do("run_for", seconds=1.5)

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

    @precondition(lambda self: self.running())
    @rule(
        choice=CHOICE,
        act=st.sampled_from(["delete", "finish", "stop_task"]),
        lag=st.sampled_from([0.07, 0.15, 0.3]),
        moment=st.sampled_from([0.0, 0.05, 0.11, 0.17]),
    )
    def lose_the_reply_to(self, choice: int, act: str, lag: float, moment: float) -> None:
        """Leave it unknown whether a write took effect, while the next server may show an old state."""
        self.calm_down()
        if not (runs := self.cluster.monitor.open_runs()):
            return
        run = one_of(runs, choice)
        for server in {1, 2, 3} - {self.server_of(run.place.name)}:
            self.do("lag_server", server=server, seconds=lag)
        # Between two heartbeats: a server accepts a connection only if it has applied what the node last saw.
        self.do("run_for", seconds=moment)
        self.do("lose_reply", node=run.place.name)
        self.do(act, task=run.task)
        self.do("run_for", seconds=1.0)

    @precondition(lambda self: self.running() and self.live())
    @rule(choice=CHOICE, timeouts=st.sampled_from([0.1, 0.2, 0.3]), act=st.sampled_from(["delete", "finish", "both"]))
    def delete_behind_its_back(self, choice: int, timeouts: float, act: str) -> None:
        """Delete a task while its owner is alive but disconnected, and reconnect the owner before its lease ends."""
        self.calm_down()
        if not (runs := self.cluster.monitor.open_runs()):
            return
        run = one_of(runs, choice)
        node = run.place.name
        self.do("partition", node=node, way="both")
        if act != "delete":
            self.do("finish", task=run.task)
        if act != "finish":
            self.do("delete", task=run.task)
        self.do("run_for", seconds=timeouts * self.script.session_timeout)
        self.do("submit", task=run.task, again=True)
        self.do("heal", node=node)
        self.do("run_for", seconds=1.0)

    # ---- the client's requests

    @precondition(lambda self: self.tasks)
    @rule(
        choice=CHOICE,
        act=st.sampled_from(["submit", "submit_again", "submit_again", "delete", "send"]),
        how=st.sampled_from(["lose_reply", "lose_reply", "kill_server", "isolate_server", "elect", "pause", "cut"]),
        moment=st.sampled_from([0.0, 0.001, 0.0015, 0.002, 0.003]),
    )
    def disturb_a_request(self, choice: int, act: str, how: str, moment: float) -> None:
        """Leave it unknown to a client whether its request was carried out."""
        if act == "submit_again" and self.running():
            self.finish(choice, fail=False)
            self.do("run_for", seconds=0.5)
        if how == "lose_reply":
            self.do("lose_reply", node="client")
        if act != "send":
            self.act(act, choice)
        elif self.live():
            self.send(choice, "balance")
        if moment:
            self.do("run_for", seconds=moment)
        server = self.server_of("client")
        if how == "pause":
            self.do("pause", node="client", seconds=1.0)
        elif how == "cut":
            self.do("partition", node="client", server=server)
        elif how == "elect" and self.zookeeper.leader:
            self.do("elect", out=0.2)
        elif how in ("kill_server", "isolate_server") and server in self.servers(alive=True, linked=True):
            self.do(how, server=server)
        self.do("run_for", seconds=1.0)

    # ---- permissions

    @precondition(lambda self: self.tasks)
    @rule(choice=CHOICE, what=st.sampled_from(["reading", "ending"]), then=st.sampled_from(["", "finish", "delete"]))
    def refuse(self, choice: int, what: str, then: str) -> None:
        """Forbid something about one task, and perhaps end it at once."""
        task = one_of(self.tasks, choice)
        self.do("refuse", task=task, what=what)
        if then:
            self.do(then, task=task)

    # ---- sessions that end although their claims stay

    @precondition(lambda self: self.live(frozen=None))
    @rule(choice=CHOICE, then=st.sampled_from(["", "", "elect"]), shield=st.booleans())
    def remove_node(self, choice: int, then: str, shield: bool) -> None:
        """Delete a node's znode, perhaps while one of the tasks does not stop, and perhaps break its connection."""
        if shield and self.running():
            self.do("linger", task=one_of(self.running(), choice), seconds=5.0, shield=True)
        self.do("remove_node", node=self.pick(choice, frozen=None))
        if then and self.zookeeper.leader:
            self.do("run_for", seconds=self.script.session_timeout / 4)
            self.do("elect", out=0.2)

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
    @rule(choice=CHOICE, share=st.sampled_from([LEAST_GRANTED, 0.8, 1.0]))
    def limit_timeout(self, choice: int, share: float) -> None:
        longest, limits = share * self.script.session_timeout, self.zookeeper.longest_timeouts
        low = any(limit < LEAST_GRANTED * self.script.session_timeout for limit in limits.values())
        for server in limits if low else [one_of(self.servers(alive=True), choice)]:
            self.do("limit_timeout", server=server, longest=longest)

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
