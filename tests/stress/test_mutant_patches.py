"""The mutants themselves: each can be put in and taken out, and breaks a promise rather than everything."""

from __future__ import annotations

import pytest

from metafora_trio.testing.simulation import BrokenPromise, SimulatedCluster
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker
from stress.mutants.all_mutants import MUTANTS, Mutant
from stress.simulate.machine import quiet

SEEN_AT_ONCE = {
    "claimed-is-owned",
    "drained-node-stays",
    "donor-and-heir-miscount",
    "claim-goes-before-the-task",
    "deleted-outright",
}
"""The mutants that break a promise even without any fault."""

each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=str)


def live() -> None:
    """Run a cluster without any fault: tasks are submitted, run, end and are deleted; nodes join and leave.

    Raises:
        BrokenPromise: a promise was broken.
    """
    with quiet(), SimulatedCluster(nodes=2, seed=3, broker=ZooKeeperBroker) as cluster:
        cluster.run_for(1.0)
        for task in ("t1", "t2", "t3", "t4"):
            cluster.submit(task)
        cluster.run_for(6.0)
        cluster.finish("t1")
        cluster.run_for(1.0)
        cluster.delete("t2")
        cluster.run_for(1.0)
        cluster.start()
        cluster.run_for(8.0)
        cluster.drain("n1")
        cluster.run_for(8.0)
        cluster.settle()


def test_there_are_many_and_each_says_which_rule_it_breaks() -> None:
    assert len(MUTANTS) >= 16
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.rule.endswith(".") and mutant.source for mutant in MUTANTS)


@each_mutant
def test_it_is_put_in_and_taken_out(mutant: Mutant) -> None:
    places = [(owner, name) for owner, name, _ in mutant.changes()]
    right = [vars(owner)[name] for owner, name in places]
    with mutant.patch():
        assert not any(vars(owner)[name] is was for (owner, name), was in zip(places, right, strict=True))
    assert all(vars(owner)[name] is was for (owner, name), was in zip(places, right, strict=True))


def test_without_a_mutant_no_promise_is_broken() -> None:
    live()


@each_mutant
def test_only_a_promise_breaks(mutant: Mutant) -> None:
    """A mutant is a bug of the protocol, not one that stops everything."""
    with mutant.patch():
        if mutant.name in SEEN_AT_ONCE:
            with pytest.raises(BrokenPromise):
                live()
        else:
            live()
