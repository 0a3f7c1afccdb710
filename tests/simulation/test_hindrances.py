"""Nodes of a simulated cluster that are full, refuse tasks, have an observer that raises, or are cancelled."""

from __future__ import annotations

import pytest

from metafora_trio.events import Event, ObserverFailed
from metafora_trio.testing.simulation import BrokenPromise, BrokerFactory, SimulatedCluster
from stress.simulate.brokers import BROKERS

each_broker = pytest.mark.parametrize("broker", BROKERS.values(), ids=BROKERS)


@each_broker
def test_tasks_may_wait_if_all_nodes_are_full(broker: BrokerFactory) -> None:
    with SimulatedCluster(seed=1, broker=broker) as cluster:
        cluster.start(capacity=1)
        cluster.start(capacity=2)
        for task in ("t1", "t2", "t3", "t4"):
            cluster.submit(task)
        cluster.settle()
        assert len(cluster.monitor.open_runs()) == 3
        cluster.start()
        cluster.settle()
        assert len(cluster.monitor.open_runs()) == 4


def test_a_task_that_waits_though_a_node_has_room_breaks_a_promise() -> None:
    with SimulatedCluster(seed=1) as cluster:
        cluster.start(capacity=1)
        refusing = cluster.start(refusals=1000)
        assert refusing.balancer is not None
        refusing.balancer.relent = lambda: None  # type: ignore[method-assign] # it never does
        cluster.submit("t1")
        cluster.submit("t2")
        with pytest.raises(BrokenPromise, match=r"not settled in time: \['t. has the claims \[\]'"):
            cluster.settle()


@each_broker
def test_a_refused_task_runs_later(broker: BrokerFactory) -> None:
    with SimulatedCluster(seed=1, broker=broker) as cluster:
        cluster.start(refusals=3)
        cluster.submit("t1")
        cluster.run_for(2.0)
        assert cluster.owner("t1") is None
        cluster.run_until_running("t1", within=2.0)
        cluster.settle()


@each_broker
def test_an_observer_that_raises_harms_nothing(broker: BrokerFactory) -> None:
    seen: list[Event] = []
    with SimulatedCluster(seed=1, broker=broker) as cluster:
        cluster.start(fails_after=1, observers=[seen.append])
        cluster.submit("t1")
        cluster.run_until_running("t1")
        cluster.settle()
    assert [type(event) for event in seen].count(ObserverFailed) == 1


@each_broker
def test_a_cancelled_node_leaves_at_once(broker: BrokerFactory) -> None:
    with SimulatedCluster(nodes=2, seed=1, broker=broker) as cluster:
        for task in ("t1", "t2"):
            cluster.submit(task)
        cluster.run_until_running("t1", "t2")
        cluster.cancel("n1")
        cluster.run_for(0.5)
        assert not cluster.runs("n1")
        cluster.run_for(2.0)
        assert {cluster.owner("t1"), cluster.owner("t2")} == {"n2"}
        cluster.settle()


@each_broker
def test_a_drain_may_wait_for_a_full_node(broker: BrokerFactory) -> None:
    """The task keeps running until the drain timeout, since no other node could take it anyway."""
    with SimulatedCluster(seed=1, broker=broker) as cluster:
        cluster.start(capacity=1)
        cluster.start()
        for task in ("t1", "t2"):
            cluster.submit(task)
        cluster.run_until_running("t1", "t2")
        cluster.drain("n2")
        cluster.run_for(20.0)
        assert len(cluster.monitor.open_runs()) == 2
        cluster.settle()
        assert [run.place.name for run in cluster.monitor.open_runs()] == ["n1"]
