"""The check of a settled cluster names all that is not as it should be, whatever the broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio import Claim, NodeInfo, StateName
from metafora_trio.contract import (
    ClaimAdded,
    ClaimKind,
    ClusterView,
    NodeAdded,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
    ViewEvent,
)
from metafora_trio.testing.simulation import BrokenPromise, BrokerContents, MemoryBroker, SimulatedCluster
from metafora_trio.testing.simulation._settled import SettledCheck

A, B = "n1.a", "n2.b"


class Contents(MemoryBroker):
    """A broker whose contents a test decides."""

    view: ClusterView
    states: dict[str, StateName]
    commanded: list[str]
    leftovers: list[str]

    def contents(self) -> BrokerContents:
        return BrokerContents(self.view, self.states, self.commanded, self.leftovers)


class Looked:
    """A cluster without nodes, and what the check says of it."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        assert isinstance(cluster.broker, Contents)
        self.cluster = cluster
        self.broker = cluster.broker
        self.broker.view, self.broker.states, self.broker.commanded, self.broker.leftovers = ClusterView(), {}, [], []
        self._check = SettledCheck(cluster.nodes, cluster.client, cluster.expectations, cluster.broker, cluster.monitor)

    def apply(self, *events: ViewEvent) -> None:
        for event in events:
            self.broker.view.apply(event)

    def add_task(self, task: str, *claims: Claim) -> None:
        self.apply(TaskAdded(task), *map(ClaimAdded, claims))
        self.broker.states[task] = StateName.RUNNABLE

    @property
    def problems(self) -> list[str]:
        return self._check.problems()


@pytest.fixture
def looked() -> Iterator[Looked]:
    with SimulatedCluster(broker=Contents) as cluster:
        yield Looked(cluster)


def claim(seq: int, task: str, node: str, kind: ClaimKind = ClaimKind.CLAIM) -> Claim:
    return Claim(seq, task, node, kind)


def test_nothing_is_settled(looked: Looked) -> None:
    assert looked.problems == []


def test_a_task_that_nobody_runs(looked: Looked) -> None:
    looked.add_task("t")
    looked.add_task("u", claim(3, "u", A))
    assert looked.problems == ["t has the claims []", "u is owned by [(3, 'n1.a')], and runs: []"]


def test_a_task_that_runs_where_it_should_not(looked: Looked) -> None:
    """On a node that is leaving, or dead; a monitor that lost sight of one would not count it."""
    looked.add_task("t", claim(3, "t", A))
    looked.cluster.monitor.start("t", A, 3, looked.cluster.client.place)
    assert looked.problems == ["t runs on client"]


def test_a_deleted_task_that_is_there(looked: Looked) -> None:
    looked.add_task("t", claim(3, "t", A))
    looked.apply(TaskDeleted("t"))
    assert looked.problems == ["t was deleted, and is still there"]


def test_states_belong_to_tasks(looked: Looked) -> None:
    looked.add_task("t")
    del looked.broker.states["t"]
    looked.broker.states |= {"u": StateName.RUNNABLE, "v": StateName.COMPLETED}
    assert looked.problems == [
        "t has the claims []",
        "u has a state, and is not there",
        "t is there, and its state is None",
    ]


def test_claims_and_bids_that_are_left_over(looked: Looked) -> None:
    looked.add_task("t", claim(3, "t", A), claim(4, "t", B, ClaimKind.BID))
    looked.add_task("u", claim(5, "u", A))
    looked.apply(TaskRemoved("u"))
    del looked.broker.states["u"]
    assert looked.problems == [
        "t has the claims [(3, 'n1.a'), (4, 'n2.b')]",
        "the bid of n2.b for t is left over",
        "the claim of n1.a for u is left over",
    ]


def test_commands_and_what_else_is_left_over(looked: Looked) -> None:
    looked.broker.commanded.append(A)
    looked.broker.leftovers.append("a stone is left over")
    assert looked.problems == ["a command to n1.a is left over", "a stone is left over"]


def test_sessions_of_nodes_that_do_not_run(looked: Looked) -> None:
    looked.apply(NodeAdded(NodeInfo(A)), NodeAdded(NodeInfo(B, frozen=True)))
    assert looked.problems == [
        "the members are ['n1.a', 'n2.b'], and the nodes that run are []",
        "n2.b is still frozen",
    ]


def test_a_node_without_a_session(looked: Looked) -> None:
    looked.cluster.start()
    assert looked.problems == ["the members are [], and the nodes that run are ['n1 (no session)']"]


def test_a_node_that_was_to_leave(looked: Looked) -> None:
    looked.cluster.start()
    looked.cluster.drain("n1")
    assert looked.problems[-1] == "n1 has not left"


def test_what_clients_were_promised(looked: Looked) -> None:
    looked.cluster.expectations.there |= {"t": True, "u": False, "v": True, "w": False}
    looked.broker.states |= {"u": StateName.COMPLETED, "v": StateName.FAILED}
    assert looked.problems == ["t was submitted, and is forgotten", "u was deleted, and is still there"]


def test_an_uneven_load(looked: Looked) -> None:
    """Among the nodes that are not leaving."""
    nodes = [looked.cluster.start() for _ in range(2)]
    for number in range(2):
        looked.add_task(f"t{number}", claim(number, f"t{number}", A))
        looked.cluster.monitor.start(f"t{number}", A, number, nodes[0].place)
    assert looked.problems[0] == "the load is uneven: {'n1': 2, 'n2': 0}"


def test_a_cluster_that_does_not_settle_breaks_a_promise(looked: Looked) -> None:
    looked.broker.leftovers.append("a stone is left over")
    with pytest.raises(BrokenPromise, match=r"not at rest in time: \['a stone is left over'"):
        looked.cluster.settle()
