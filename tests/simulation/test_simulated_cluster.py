"""The simulated cluster: real consumers, every fault, and the same history for the same calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from metafora_trio import RunningTask, StateName
from metafora_trio.testing.simulation import BrokenPromise, SimulatedCluster
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(nodes=2, seed=1, broker=ZooKeeperBroker) as cluster:
        cluster.run_for(3.0)
        for task in ("t1", "t2"):
            cluster.submit(task)
        cluster.run_until_running("t1", "t2")
        yield cluster


def test_a_crashed_node_is_replaced(cluster: SimulatedCluster) -> None:
    cluster.crash("n1")
    cluster.run_for(5.0)
    assert cluster.owner("t1") == cluster.owner("t2") == "n2"
    assert not cluster.nodes["n1"].running
    with pytest.raises(ValueError, match="n1 does not run"):
        cluster.crash("n1")
    cluster.settle()


def test_a_paused_node_loses_its_task_and_joins_again(cluster: SimulatedCluster) -> None:
    cluster.pause("n1", 8.0)
    cluster.run_for(7.0)
    assert cluster.owner("t1") == cluster.owner("t2") == "n2"
    cluster.run_for(8.0)
    assert {cluster.owner("t1"), cluster.owner("t2")} == {"n1", "n2"}
    cluster.settle()


@pytest.mark.parametrize("way", ["both", "to", "from"])
def test_a_node_that_is_cut_off_stops_its_task_in_time(cluster: SimulatedCluster, way: str) -> None:
    cluster.partition("n1", way=way)
    cluster.run_for(2.5)
    assert [run.place.name for run in cluster.monitor.open_runs()] == ["n2"]
    cluster.heal("n1")
    cluster.settle()


def test_a_drained_node_leaves(cluster: SimulatedCluster) -> None:
    cluster.drain("n1")
    cluster.run_for(5.0)
    assert not cluster.nodes["n1"].running
    assert cluster.owner("t1") == cluster.owner("t2") == "n2"
    cluster.settle()


def test_commands_reach_their_node(cluster: SimulatedCluster) -> None:
    cluster.send("n1", "freeze")
    cluster.run_for(1.0)
    assert cluster.nodes["n1"].consumer.frozen
    cluster.send("n2", "drain")
    cluster.stop_task("t1")
    cluster.settle()
    assert not cluster.nodes["n1"].consumer.frozen
    assert not cluster.nodes["n2"].running


def test_a_session_that_is_ended_early_costs_only_what_the_fence_stops(cluster: SimulatedCluster) -> None:
    cluster.delay("n1", 0.3)  # so the node learns of it late
    before = cluster.nodes["n1"].identity
    cluster.expire("n1")
    cluster.run_for(6.0)
    assert cluster.nodes["n1"].identity != before
    cluster.settle()
    assert cluster.fault_counts == {"delay": 1, "expire": 1}


def test_servers_fail(cluster: SimulatedCluster) -> None:
    cluster.inflict("isolate_server", server=1)
    cluster.run_for(1.0)
    cluster.inflict("kill_server", server=2)
    cluster.run_for(1.0)
    cluster.remedy("start_server", server=2)
    cluster.heal()
    cluster.inflict("lag_server", server=3, seconds=0.5)
    cluster.inflict("elect", out=0.5)
    cluster.lose_reply("n1")
    cluster.run_for(3.0)
    cluster.settle()


def test_a_client_waits_for_the_servers() -> None:
    """It keeps trying to connect, and then makes the requests that were queued in the meantime."""
    with SimulatedCluster(nodes=1, broker=ZooKeeperBroker) as cluster:
        for server in (1, 2, 3):
            cluster.inflict("kill_server", server=server)
        cluster.submit("t")
        cluster.run_for(25.0)
        assert cluster.client.outstanding == 1
        cluster.heal()
        cluster.run_until_running("t")
        cluster.settle()


def test_a_task_that_shields_itself_beyond_its_lease_breaks_an_assumption(cluster: SimulatedCluster) -> None:
    cluster.linger("t1", 30.0, shield=True)
    cluster.linger("t2", 30.0)
    cluster.partition("n1")
    cluster.partition("n2")
    cluster.run_for(6.0)
    assert cluster.owner("t1") is None
    assert [run.task for run in cluster.monitor.open_runs()] == ["t1"]
    cluster.run_for(30.0)
    cluster.settle()


def test_a_clock_that_drifts_too_far_is_not_held_to_the_promise(cluster: SimulatedCluster) -> None:
    cluster.start(rate=0.2)
    cluster.start(rate=1.0005)
    assert cluster.fault_counts == {"drift": 1}


def test_a_broken_promise_is_raised(cluster: SimulatedCluster) -> None:
    cluster.monitor.violation("planted")
    with pytest.raises(BrokenPromise, match="planted"):
        cluster.run_for(1.0)


def test_a_node_that_fails_fails_the_test() -> None:
    async def bad(task: RunningTask) -> None:
        raise KeyboardInterrupt

    with SimulatedCluster(bad, nodes=1) as other:
        other.run_for(2.0)
        other.submit("t")
        with pytest.raises(BaseExceptionGroup) as caught:
            other.run_for(3.0)
        assert caught.value.split(KeyboardInterrupt)[0] is not None


def test_tasks_that_do_not_run_are_named(cluster: SimulatedCluster) -> None:
    with pytest.raises(TimeoutError, match="not running within 1 s: t3, t4"):
        cluster.run_until_running("t1", "t3", "t4", within=1.0)


def test_a_cluster_that_does_not_settle_is_reported(cluster: SimulatedCluster) -> None:
    cluster.drain("n1")
    cluster.crash("n2")
    cluster.submit("t3")
    cluster.settle()  # a new node takes everything
    cluster.partition("n3")
    cluster.broker.heal = lambda node=None: None  # type: ignore[method-assign]
    with pytest.raises(BrokenPromise, match="not settled in time: "):
        cluster.settle()


def test_a_client_that_is_never_answered_is_reported(cluster: SimulatedCluster) -> None:
    """A cluster has not settled while a request is unanswered."""
    cluster.client.outstanding += 1
    with pytest.raises(BrokenPromise, match=r"not answered in time: \['1 requests'\]"):
        cluster.settle()


def test_a_token_that_shrinks_is_reported(cluster: SimulatedCluster) -> None:
    """Tokens would shrink after an operator had deleted a bucket, and with it the counter of its claims."""
    assert isinstance(cluster.broker, ZooKeeperBroker)
    cluster.broker.tokens["t1"] = 1000
    cluster.crash("n1")
    cluster.crash("n2")
    cluster.start()
    with pytest.raises(BrokenPromise, match=r"t1 is owned by n3\.\w+ with token \d+ after token 1000"):
        cluster.run_for(20.0)


def test_stop_task_twice_lets_a_task_wait_longer(cluster: SimulatedCluster) -> None:
    """Each time the task is given back, the node leaves it alone for twice as long, up to a minute."""
    expectations = cluster.expectations
    assert expectations.left_alone == 0.0
    for _ in range(3):
        cluster.stop_task("t1")
        cluster.run_for(1.0)
    assert expectations.left_alone == 4.0
    expectations.stopped["t2"] = 50
    assert expectations.left_alone == 60.0


def test_the_wall_clock_is_virtual() -> None:
    """Nodes record virtual times, so a simulated hour is an hour in their records."""
    with SimulatedCluster(nodes=1) as cluster:
        cluster.run_for(3600.0)
        cluster.start()
        cluster.run_for(5.0)
        first, second = (node.since for node in cluster.broker.contents().view.nodes.values())
        assert second - first == pytest.approx(3600.0, abs=5.0)


def test_a_cluster_runs_the_given_handler() -> None:
    ran: list[str] = []

    async def handler(task: RunningTask) -> None:
        ran.append(f"{task.id} {task.props['n']}")
        await trio.sleep(60.0)

    with SimulatedCluster(handler, nodes=1, seed=5) as cluster:
        cluster.run_for(2.0)
        cluster.submit("t", n=7)
        cluster.run_until(lambda: cluster.state("t") is StateName.COMPLETED, within=100.0)
        assert ran == ["t 7"]


def test_the_fixture_closes_its_clusters(metafora_cluster: Callable[..., SimulatedCluster]) -> None:
    for seed in range(2):
        metafora_cluster(nodes=1, seed=seed).run_for(1.0)


TRACE = """
import hashlib
import sys
from stress.simulate.script import Script, play
print(hashlib.sha256(repr(play(Script.read(sys.argv[1]))).encode()).hexdigest())
"""
MANY_FAULTS = Path(__file__).parents[1] / "stress" / "histories" / "many_faults.json"


def test_the_same_history_in_every_process() -> None:
    """Python's hash seed, and anything else that differs between processes, changes nothing."""
    traces = {
        subprocess.run(
            [sys.executable, "-c", TRACE, MANY_FAULTS],
            check=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(traces) == 1
