"""The end of a directory's sequence numbers, on simulated servers: nothing runs twice, and the log says what to do."""

from __future__ import annotations

import logging

import pytest

from metafora_trio.testing.simulation import SimulatedCluster
from metafora_trio_zookeeper._layout import LAST_SEQUENCE
from metafora_trio_zookeeper._session.session import ZooKeeperSession
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker

TASKS = [f"t{n}" for n in range(6)]


def test_no_claim_has_a_number_after_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """With such numbers, the queue of a task would be in the order of names, and a second node could run it."""
    with (
        caplog.at_level(logging.CRITICAL, "metafora_trio"),
        SimulatedCluster(seed=1, nodes=2, broker=ZooKeeperBroker) as cluster,
    ):
        cluster.inflict("start_sequences", number=LAST_SEQUENCE - 1)
        for task in TASKS:
            cluster.submit(task)
        cluster.run_for(10.0)
        cluster.start()  # it would bid for what the others have
        cluster.run_for(30.0)
        runs = cluster.monitor.open_runs()
        assert [run.token for run in runs] == [LAST_SEQUENCE - 1] * 2  # one in each of the two buckets
        said = [record.getMessage() for record in caplog.records]
    assert {text.partition(": ")[2].partition(".")[0] for text in said} == {
        "the sequence numbers of /m/claims/00 are used up",
        "the sequence numbers of /m/claims/01 are used up",
    }
    assert len(said) <= 3 * len(TASKS)  # each node says it for the claims that it had sent, and sends no more


def test_a_name_that_a_person_has_made_stops_no_claims() -> None:
    with SimulatedCluster(seed=1, nodes=1, broker=ZooKeeperBroker) as cluster:
        cluster.run_for(2.0)
        membership = cluster.nodes["n1"].consumer._membership
        assert membership is not None
        assert isinstance(membership.session, ZooKeeperSession)
        for bucket in ("00", "01"):
            membership.session._layout.parse_claim(bucket, "t~a.0123456789~c~-1")
        assert membership.session._layout.used_up == {"00", "01"}
        for task in TASKS:
            cluster.submit(task)
        cluster.run_until_running(*TASKS)
