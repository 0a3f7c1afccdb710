"""SettledCheck names everything that keeps a simulated cluster from having settled, with any broker."""

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
    """A broker whose contents the test sets."""

    view: ClusterView
    states: dict[str, StateName]
    commanded: list[str]
    leftovers: list[str]

    def contents(self) -> BrokerContents:
        return BrokerContents(self.view, self.states, self.commanded, self.leftovers)


class Checked:
    """A cluster without nodes, and the problems that the check finds in it."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        assert isinstance(cluster.broker, Contents)
        self.cluster = cluster
        self.broker = cluster.broker
        self.broker.view, self.broker.states, self.broker.commanded, self.broker.leftovers = ClusterView(), {}, [], []
        self._check = SettledCheck(
            cluster.nodes,
            cluster.client,
            cluster.expectations,
            cluster.broker,
            cluster.monitor,
            lambda: cluster.world.now,
        )

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
def checked() -> Iterator[Checked]:
    with SimulatedCluster(broker=Contents) as cluster:
        yield Checked(cluster)


def claim(seq: int, task: str, node: str, kind: ClaimKind = ClaimKind.CLAIM) -> Claim:
    return Claim(seq, task, node, kind)


def test_an_empty_cluster_is_settled(checked: Checked) -> None:
    assert checked.problems == []


def test_a_task_that_no_node_runs(checked: Checked) -> None:
    checked.add_task("t")
    checked.add_task("u", claim(3, "u", A))
    assert checked.problems == ["t has the claims []", "u is owned by [(3, 'n1.a')], but its runs are []"]


def test_a_task_that_runs_where_it_should_not(checked: Checked) -> None:
    """For example on a node that is leaving or dead."""
    checked.add_task("t", claim(3, "t", A))
    checked.cluster.monitor.start("t", A, 3, checked.cluster.client.place)
    assert checked.problems == ["t runs on client, which is leaving or gone"]


def test_a_deleted_task_that_is_there(checked: Checked) -> None:
    checked.add_task("t", claim(3, "t", A))
    checked.apply(TaskDeleted("t"))
    assert checked.problems == ["t was deleted, but is still there"]


def test_states_belong_to_tasks(checked: Checked) -> None:
    checked.add_task("t")
    del checked.broker.states["t"]
    checked.broker.states |= {"u": StateName.RUNNABLE, "v": StateName.COMPLETED}
    assert checked.problems == [
        "t has the claims []",
        "u has a state, but does not exist",
        "t exists, but its state is None",
    ]


def test_claims_and_bids_that_are_left_over(checked: Checked) -> None:
    checked.add_task("t", claim(3, "t", A), claim(4, "t", B, ClaimKind.BID))
    checked.add_task("u", claim(5, "u", A))
    checked.apply(TaskRemoved("u"))
    del checked.broker.states["u"]
    assert checked.problems == [
        "t has the claims [(3, 'n1.a'), (4, 'n2.b')]",
        "the bid of n2.b for t is left over",
        "the claim of n1.a for u is left over",
    ]


def test_commands_and_other_leftovers(checked: Checked) -> None:
    checked.broker.commanded.append(A)
    checked.broker.leftovers.append("a record is left over")
    assert checked.problems == ["a command to n1.a is left over", "a record is left over"]


def test_sessions_of_nodes_that_do_not_run(checked: Checked) -> None:
    checked.apply(NodeAdded(NodeInfo(A)), NodeAdded(NodeInfo(B, frozen=True)))
    assert checked.problems == [
        "the members are ['n1.a', 'n2.b'], but the running nodes are []",
        "n2.b is still frozen",
    ]


def test_a_node_without_a_session(checked: Checked) -> None:
    checked.cluster.start()
    assert checked.problems == ["the members are [], but the running nodes are ['n1 (no session)']"]


def test_a_node_that_was_to_leave(checked: Checked) -> None:
    checked.cluster.start()
    checked.cluster.drain("n1")
    assert checked.problems[-1] == "n1 has not left"


def test_tasks_that_clients_submitted_or_deleted(checked: Checked) -> None:
    checked.cluster.expectations.there |= {"t": True, "u": False, "v": True, "w": False}
    checked.broker.states |= {"u": StateName.COMPLETED, "v": StateName.FAILED}
    assert checked.problems == ["t was submitted, but is gone", "u was deleted, but is still there"]


def test_an_uneven_load(checked: Checked) -> None:
    """Only nodes that are not leaving count."""
    nodes = [checked.cluster.start() for _ in range(2)]
    for number in range(2):
        checked.add_task(f"t{number}", claim(number, f"t{number}", A))
        checked.cluster.monitor.start(f"t{number}", A, number, nodes[0].place)
    assert checked.problems[0] == "the load is uneven: {'n1': 2, 'n2': 0}"


def test_a_cluster_that_does_not_settle_breaks_a_promise(checked: Checked) -> None:
    checked.broker.leftovers.append("a record is left over")
    with pytest.raises(BrokenPromise, match=r"not settled in time: \['a record is left over'"):
        checked.cluster.settle()
