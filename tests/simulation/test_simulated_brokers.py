"""The protocol `SimulatedBroker`: with each broker, nodes start, share tasks, fail, are cut off, and settle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
from trio._core import _run as trio_run

from metafora_trio import StateName
from metafora_trio.testing.history import EventName, check_history
from metafora_trio.testing.simulation import BrokenPromise, BrokerFactory, SimulatedCluster
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker
from stress.simulate.brokers import BROKERS

each_broker = pytest.mark.parametrize("broker", BROKERS.values(), ids=BROKERS)


@pytest.fixture(params=list(BROKERS.values()), ids=list(BROKERS))
def cluster(request: pytest.FixtureRequest) -> Iterator[SimulatedCluster]:
    with SimulatedCluster(nodes=2, seed=1, broker=request.param) as cluster:
        cluster.run_for(3.0)
        for task in ("t1", "t2"):
            cluster.submit(task)
        cluster.run_until_running("t1", "t2")
        yield cluster


def owners(cluster: SimulatedCluster) -> list[str | None]:
    return sorted([cluster.owner("t1"), cluster.owner("t2")], key=str)


def test_nodes_start_and_share_the_tasks(cluster: SimulatedCluster) -> None:
    assert owners(cluster) == ["n1", "n2"]
    assert cluster.owner("t3") is None
    assert sorted(cluster.broker.contents().view.nodes) == sorted(str(it.identity) for it in cluster.nodes.values())
    cluster.settle()
    assert check_history(cluster.monitor.events).ok


@pytest.mark.parametrize("fail, state", [(False, StateName.COMPLETED), (True, StateName.FAILED)])
def test_a_task_ends_and_runs_again(cluster: SimulatedCluster, fail: bool, state: StateName) -> None:
    cluster.finish("t1", fail=fail)
    cluster.run_for(1.0)
    assert (cluster.owner("t1"), cluster.state("t1")) == (None, state)
    cluster.submit("t1", again=True)
    cluster.run_until_running("t1")
    cluster.delete("t1")
    cluster.run_for(1.0)
    assert (cluster.owner("t1"), cluster.state("t1")) == (None, None)
    cluster.settle()


@each_broker
def test_a_task_that_was_deleted_before_any_node_came_is_removed(broker: BrokerFactory) -> None:
    """No node takes tasks, and no event has shown the tombstone to any of them."""
    with SimulatedCluster(seed=1, broker=broker, capacity=0) as cluster:
        for task in ("t1", "t2", "t3"):
            cluster.submit(task)
        cluster.run_for(1.0)
        for task in ("t1", "t2", "t3"):
            cluster.delete(task)
        cluster.run_for(1.0)
        assert len(cluster.broker.contents().view.tasks) == 3
        cluster.start()
        cluster.start()
        cluster.run_for(20.0)
        assert not cluster.broker.contents().view.tasks
        cluster.settle()


def test_a_crashed_node_is_replaced(cluster: SimulatedCluster) -> None:
    cluster.crash("n1")
    assert not cluster.runs("n1")
    cluster.run_for(7.0)
    assert owners(cluster) == ["n2", "n2"]
    with pytest.raises(ValueError, match="n1 does not run"):
        cluster.crash("n1")
    cluster.settle()
    assert cluster.fault_counts == {"crash": 1}


def test_a_node_that_is_cut_off_stops_its_task_in_time_and_comes_back(cluster: SimulatedCluster) -> None:
    cluster.partition("n1")
    cluster.run_for(2.5)
    assert {run.place.name for run in cluster.monitor.open_runs()} == {"n2"}
    cluster.heal("n1")
    cluster.settle()
    assert owners(cluster) == ["n1", "n2"]


@pytest.mark.parametrize("heal", ["one", "all", "settle"])
def test_a_short_partition_costs_nothing(cluster: SimulatedCluster, heal: str) -> None:
    """However it ends, the session continues, and so do its tasks."""
    sessions = [node.identity for node in cluster.nodes.values()]
    runs = len(cluster.monitor.started)
    cluster.partition("n2")
    cluster.run_for(0.3)
    if heal == "settle":
        cluster.settle()
    else:
        cluster.heal("n2" if heal == "one" else None)
    cluster.run_for(8.0)
    assert [node.identity for node in cluster.nodes.values()] == sessions
    assert len(cluster.monitor.started) == runs


def test_a_session_that_is_ended_early_is_exempt_from_promises(cluster: SimulatedCluster) -> None:
    before = cluster.nodes["n1"].identity
    assert before is not None
    cluster.expire("n1")
    cluster.run_for(6.0)
    assert cluster.monitor.is_void(before)
    assert cluster.nodes["n1"].identity not in (None, before)
    cluster.settle()


def test_commands_reach_their_node(cluster: SimulatedCluster) -> None:
    cluster.send("n1", "freeze")
    cluster.run_for(1.0)
    assert cluster.nodes["n1"].consumer.frozen
    cluster.send("n2", "drain")
    cluster.settle()
    assert not cluster.nodes["n1"].consumer.frozen
    assert not cluster.runs("n2")


def test_when_all_have_drained_another_takes_over(cluster: SimulatedCluster) -> None:
    cluster.drain("n1")
    cluster.drain("n2")
    cluster.settle()
    assert owners(cluster) == ["n3", "n3"]


def test_a_node_that_leaves_by_itself_breaks_a_promise(cluster: SimulatedCluster) -> None:
    for task in ("t1", "t2"):
        cluster.finish(task)
    cluster.run_for(1.0)
    cluster.nodes["n1"].drain()  # without the knowledge of the cluster
    with pytest.raises(BrokenPromise, match="n1 left without being told to"):
        cluster.run_for(10.0)


def test_changes_of_the_contents_are_counted(cluster: SimulatedCluster) -> None:
    """To check all contents is slow, so that is done only when the number has grown."""
    cluster.settle()
    before = cluster.broker.observe()
    cluster.run_for(3.0)
    assert cluster.broker.observe() == before
    cluster.submit("t3")
    cluster.run_until_running("t3")
    assert cluster.broker.observe() > before


def test_no_thread_is_started(cluster: SimulatedCluster) -> None:
    """A thread, such as the watchdog's, would run in real time."""
    assert "metafora-watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_fault_that_a_broker_does_not_offer_is_refused(cluster: SimulatedCluster) -> None:
    with pytest.raises(ValueError, match="this broker has no fault 'flood', only: crash, "):
        cluster.inflict("flood", node="n1")
    with pytest.raises(ValueError, match="this broker has no remedy 'drain_water', only: "):
        cluster.remedy("drain_water", node="n1")
    assert cluster.fault_counts == {}


@each_broker
def test_own_processes_can_be_paused_and_have_their_own_clocks(broker: BrokerFactory) -> None:
    """Neither is possible if the nodes share one process."""
    with SimulatedCluster(nodes=1, broker=broker) as cluster:
        cluster.run_for(3.0)
        if "pause" in cluster.broker.faults:
            cluster.pause("n1")
            assert cluster.nodes["n1"].frozen
            cluster.resume("n1")
            cluster.start(rate=1.01)
            assert cluster.fault_counts == {"pause": 1, "drift": 1}
        else:
            with pytest.raises(ValueError, match="no fault 'pause'"):
                cluster.pause("n1")
            with pytest.raises(ValueError, match="no remedy 'resume'"):
                cluster.resume("n1")
            with pytest.raises(ValueError, match="n2 cannot have a clock of its own"):
                cluster.start(rate=1.01)
        cluster.settle()


@each_broker
def test_a_cluster_that_cannot_be_made_leaves_nothing_behind(broker: BrokerFactory) -> None:
    """A world changes how Trio schedules in this thread, and must undo that when it is closed."""
    before = trio_run._r
    with pytest.raises(TypeError, match="unheard_of"):
        SimulatedCluster(nodes=1, broker=broker, unheard_of=True)
    assert trio_run._r is before


@each_broker
def test_the_same_seed_makes_the_same_history(broker: BrokerFactory) -> None:
    def history() -> object:
        with SimulatedCluster(nodes=2, seed=7, broker=broker) as cluster:
            for task in ("t1", "t2", "t3"):
                cluster.submit(task)
            cluster.run_for(5.0)
            cluster.crash("n1")
            cluster.settle()
            return cluster.monitor.events, cluster.world.now

    assert history() == history()


def test_tokens_of_any_size() -> None:
    """The simulated namespace may have any generation, which is the upper half of its tokens."""
    with SimulatedCluster(nodes=2, seed=1, broker=partial(ZooKeeperBroker, generation=2**31 - 1)) as cluster:
        cluster.run_for(3.0)
        cluster.submit("t1")
        cluster.run_until_running("t1")
        cluster.crash(cluster.owner("t1") or "")
        cluster.settle()
        tokens = [event.token for event in cluster.monitor.events if event.ev is EventName.START]
        assert len(tokens) == 2
        assert tokens == sorted(tokens)
        assert {token >> 32 for token in tokens} == {2**31 - 1}
