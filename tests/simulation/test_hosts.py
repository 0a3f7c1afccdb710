"""The hosts of nodes: a process, or a part of one, can be killed, and a process can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio.testing.simulation import SharedPlace, SimulatedCluster
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker


@pytest.fixture
def own_processes() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(nodes=2, broker=ZooKeeperBroker) as cluster:
        cluster.run_for(3.0)
        yield cluster


@pytest.fixture
def shared_process() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(nodes=2) as cluster:
        cluster.run_for(3.0)
        yield cluster


def test_a_process_that_is_stopped_twice_is_stopped_once(own_processes: SimulatedCluster) -> None:
    """One SIGCONT resumes it, and the history shows only the first stop."""
    own_processes.pause("n1")
    own_processes.pause("n1", 1.0)
    assert repr(own_processes.nodes["n1"]) == "<SimulatedNode n1 <Process 'n1' frozen>>"
    own_processes.run_for(2.0)
    assert not own_processes.nodes["n1"].frozen
    assert [event.ev for event in own_processes.monitor.events] == ["freeze", "thaw"]


def test_a_process_that_was_killed_while_it_was_stopped_does_not_resume(own_processes: SimulatedCluster) -> None:
    own_processes.pause("n1")
    own_processes.crash("n1")
    own_processes.resume("n1")
    own_processes.settle()
    assert not own_processes.runs("n1")
    assert [event.ev for event in own_processes.monitor.events] == ["freeze", "kill"]


def test_a_suspended_machine_notices_when_it_wakes(own_processes: SimulatedCluster) -> None:
    """Its clock shows nothing, so its session ends at the next heartbeat, and it joins again."""
    before = own_processes.nodes["n1"].identity
    for _ in range(2):  # the second makes no difference
        own_processes.inflict("suspend", node="n1", seconds=1.0)
    own_processes.run_for(1.0)
    assert (own_processes.nodes["n1"].place.time, own_processes.nodes["n1"].identity) == (3.0, before)
    own_processes.run_for(2.0)
    assert own_processes.nodes["n1"].identity not in (None, before)
    own_processes.inflict("suspend", node="n1")
    own_processes.settle()
    assert [event.ev for event in own_processes.monitor.events] == ["freeze", "thaw"] * 2


def test_a_machine_may_be_suspended_only_if_nodes_can_notice_that(shared_process: SimulatedCluster) -> None:
    with pytest.raises(ValueError, match="no fault 'suspend'"):
        shared_process.inflict("suspend", node="n1")


def test_settling_resumes_all_processes(own_processes: SimulatedCluster) -> None:
    own_processes.pause("n1")
    own_processes.pause("n2")
    own_processes.settle()
    assert [node.frozen for node in own_processes.nodes.values()] == [False, False]


def test_resuming_a_process_that_is_not_stopped_changes_nothing(own_processes: SimulatedCluster) -> None:
    own_processes.resume("n1")
    assert own_processes.monitor.events == []


def test_the_parts_of_a_process_end_separately(shared_process: SimulatedCluster) -> None:
    shared_process.crash("n1")
    shared_process.drain("n2")
    shared_process.start()
    shared_process.run_for(5.0)
    places = [node.place for node in shared_process.nodes.values()]
    assert [repr(place) for place in places] == [
        "<SharedPlace 'n1' dead>",
        "<SharedPlace 'n2' ended>",
        "<SharedPlace 'n3' running>",
    ]


def test_a_part_that_has_ended_drops_calls(shared_process: SimulatedCluster) -> None:
    """A process that is dead or has ended does the same."""
    called: list[str] = []
    shared_process.crash("n1")
    for node in shared_process.nodes.values():
        node.place.call(called.append, node.name)
    assert called == ["n2"]


def test_the_parts_of_a_process_share_its_clock(shared_process: SimulatedCluster) -> None:
    place = shared_process.nodes["n1"].place
    assert isinstance(place, SharedPlace)
    assert (place.time, place.rate, place.frozen) == (3.0, 1.0, False)
