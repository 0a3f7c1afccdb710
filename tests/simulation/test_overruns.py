"""Overruns: a scope that is open after the end of its lease is reported on virtual time, as by the watchdog."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from metafora_trio import RunningTask
from metafora_trio.testing.simulation import BrokenPromise, BrokerFactory, SimulatedCluster
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker
from stress.simulate.brokers import BROKERS

each_broker = pytest.mark.parametrize("broker", BROKERS.values(), ids=BROKERS)


@contextmanager
def one_task(
    broker: BrokerFactory, handler: Callable[[RunningTask], Awaitable[None]] | None = None
) -> Iterator[SimulatedCluster]:
    """Open a cluster of one node that runs one task."""
    with SimulatedCluster(handler, nodes=1, seed=1, broker=broker) as cluster:
        cluster.run_for(3.0)
        cluster.submit("t")
        cluster.run_until_running("t")
        yield cluster


async def shield_itself() -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(60.0)


async def stubborn(task: RunningTask) -> None:
    await shield_itself()


async def stubborn_in_its_nursery(task: RunningTask) -> None:
    task.nursery.start_soon(shield_itself)
    await trio.sleep_forever()


@each_broker
@pytest.mark.parametrize("handler", [stubborn, stubborn_in_its_nursery])
def test_a_handler_that_shields_itself_past_its_lease(
    broker: BrokerFactory, handler: Callable[[RunningTask], Awaitable[None]]
) -> None:
    """It breaks a promise at once, while the claim still exists, and not only when another node runs the task."""
    with one_task(broker, handler) as cluster:
        cluster.partition("n1")
        with pytest.raises(BrokenPromise, match=r"t on n1\.\w+ with token \d+ is still open 0\.0[67] s after the end"):
            cluster.run_for(10.0)
        assert cluster.owner("t") == "n1"
        assert [run.task for run in cluster.monitor.overruns] == ["t"]


@each_broker
def test_an_overrun_on_purpose_is_counted_and_breaks_no_promise(broker: BrokerFactory) -> None:
    with one_task(broker) as cluster:
        cluster.linger("t", 30.0, shield=True)
        cluster.partition("n1")
        cluster.run_for(40.0)
        assert [run.task for run in cluster.monitor.overruns] == ["t"]
        cluster.settle()


@each_broker
def test_cleaning_up_within_the_lease_is_no_overrun(broker: BrokerFactory) -> None:
    with one_task(broker) as cluster:
        cluster.linger("t", 30.0)
        cluster.partition("n1")
        cluster.run_for(40.0)
        cluster.settle()
        assert cluster.monitor.overruns == []


@each_broker
def test_a_node_that_was_killed_overruns_nothing(broker: BrokerFactory) -> None:
    with one_task(broker, stubborn) as cluster:
        cluster.crash("n1")
        cluster.start()
        cluster.run_for(40.0)
        assert cluster.monitor.overruns == []


def test_a_frozen_process_overruns_nothing() -> None:
    """It does not run while it is frozen, and closes its scopes as soon as it resumes."""
    with one_task(ZooKeeperBroker) as cluster:
        cluster.pause("n1", 30.0)
        cluster.run_for(40.0)
        cluster.settle()
        assert cluster.monitor.overruns == []


@pytest.mark.parametrize("rate", [0.9995, 1.0005])
def test_a_scope_that_is_open_after_a_thaw_is_reported_after_50_ms(rate: float) -> None:
    with SimulatedCluster(stubborn, seed=1, broker=ZooKeeperBroker) as cluster:
        cluster.start(rate)
        cluster.submit("t")
        cluster.run_until_running("t")
        cluster.pause("n1", 2.7)  # past the end of the lease, but not past the end of the session
        cluster.run_for(2.7)
        assert cluster.monitor.overruns == []
        began = cluster.world.now
        with pytest.raises(BrokenPromise, match=r"t on .* is still open"):
            cluster.run_for(1.0)
        assert cluster.world.now - began == pytest.approx(0.06, abs=0.001)


def test_a_lease_without_end_is_not_overrun() -> None:
    with SimulatedCluster(stubborn, nodes=1, session_timeout=math.inf) as cluster:
        cluster.submit("t")
        cluster.run_until_running("t")
        cluster.stop_task("t")
        cluster.run_for(50.0)
        assert [run.task for run in cluster.monitor.open_runs()] == ["t"]
        assert cluster.monitor.overruns == []


def test_once_an_assumption_is_broken_an_overrun_is_only_counted() -> None:
    """An operator ends the session, and the lease is over at once."""
    with one_task(ZooKeeperBroker, stubborn) as cluster:
        cluster.expire("n1")
        cluster.run_for(20.0)
        assert [run.task for run in cluster.monitor.overruns] == ["t"]
