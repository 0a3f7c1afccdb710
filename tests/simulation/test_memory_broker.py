"""The simulated broker in memory: the reports of its store, and its faults at awkward moments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio import Claim, StateName, TaskState
from metafora_trio.testing.simulation import BrokenPromise, MemoryBroker, SimulatedCluster


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(nodes=1) as cluster:
        cluster.run_for(3.0)
        cluster.submit("t")
        cluster.run_until_running("t")
        yield cluster


def own_claim(cluster: SimulatedCluster) -> Claim:
    head = cluster.broker.contents().view.head("t")
    assert head is not None
    return head


def test_a_task_that_ends_while_it_runs_is_reported(cluster: SimulatedCluster) -> None:
    assert isinstance(cluster.broker, MemoryBroker)
    claim, store = own_claim(cluster), cluster.broker._store
    place = cluster.client.place
    place.call(store.finish, claim, 0, TaskState(StateName.COMPLETED))
    with pytest.raises(BrokenPromise) as caught:
        cluster.run_for(0.0)
    problems = [line.partition(" s: ")[2] for line in str(caught.value).splitlines()]
    run = f"t on {claim.node} with token {claim.seq}"
    assert problems == [
        f"{run} still runs, but its claim is gone",
        f"t ended while {run} still runs",
        "t ended, but its handler had not ended and no client had deleted it",
    ]


def test_a_claim_that_goes_while_its_task_runs_is_reported(cluster: SimulatedCluster) -> None:
    assert isinstance(cluster.broker, MemoryBroker)
    cluster.client.place.call(cluster.broker._store.remove_claim, own_claim(cluster))
    with pytest.raises(BrokenPromise, match="still runs, but its claim is gone"):
        cluster.run_for(0.0)


def test_a_node_without_a_session_cannot_be_cut_off() -> None:
    with SimulatedCluster(nodes=1) as cluster:
        cluster.partition("n1")
        cluster.expire("n1")
        cluster.settle()
        assert cluster.runs("n1")
