"""The pytest plugin: what it costs those who do not use it, and what those who do get."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

_OF_A_STRANGER = """
import sys

def test_of_a_stranger():
    assert "metafora_trio.testing.pytest_plugin" in sys.modules
    parts = ("metafora_trio.testing.", "metafora_trio_zookeeper", "kazoo", "click")
    assert [name for name in sys.modules if name.startswith(parts)] == ["metafora_trio.testing.pytest_plugin"]
"""
_OF_A_USER = """
import sys

opened = []

def test_two_clusters(metafora_cluster):
    opened.extend([metafora_cluster(nodes=1), metafora_cluster(nodes=2, seed=7)])
    for cluster in opened:
        cluster.submit("t")
        cluster.run_until_running("t")

def test_that_they_are_closed():
    assert [process for cluster in opened for process in cluster.world.processes if not process.ended] == []

def test_that_no_backend_is_loaded():
    assert [name for name in sys.modules if name.startswith(("metafora_trio_zookeeper", "kazoo"))] == []
"""
_WITH_A_BROKER = """
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker

def test_a_pause(metafora_cluster):
    cluster = metafora_cluster(nodes=2, broker=ZooKeeperBroker)
    cluster.submit("t")
    cluster.run_until_running("t")
    cluster.pause(cluster.owner("t"), 5.0)
    cluster.settle()
"""


def run_pytest(folder: Path, source: str) -> str:
    """Run a file of tests as somebody else would, with no settings of ours; returns the last line."""
    (folder / "test_it.py").write_text(source)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", "/dev/null", "--rootdir", str(folder)]
    run = subprocess.run([sys.executable, "-m", "pytest", *options, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()[-1]


def test_who_does_not_use_it_loads_nothing_of_it(tmp_path: Path) -> None:
    """A pytest run in which nobody asks for the fixture does not depend on private names of Trio."""
    assert run_pytest(tmp_path, _OF_A_STRANGER).startswith("1 passed")


def test_clusters_are_closed_after_the_test(tmp_path: Path) -> None:
    """The fixture makes any number of clusters, in memory by default, and leaves no process of theirs behind."""
    assert run_pytest(tmp_path, _OF_A_USER).startswith("3 passed")


def test_a_broker_is_a_choice(tmp_path: Path) -> None:
    """With a broker whose nodes have processes of their own a test can pause them."""
    assert run_pytest(tmp_path, _WITH_A_BROKER).startswith("1 passed")


def test_trio_is_pinned_for_those_who_test() -> None:
    """`World` uses private names of Trio: the extra `testing` bounds it from above, by what has been tested.

    If a newer Trio breaks the canary in tests/simulation/test_world.py, mend `_world.py` before the range is widened.
    """
    of_testing = [
        requirement
        for requirement in map(Requirement, requires("metafora-trio") or ())
        if requirement.name == "trio" and requirement.marker and requirement.marker.evaluate({"extra": "testing"})
    ]
    assert [any(it.operator == "<" for it in requirement.specifier) for requirement in of_testing] == [True]
    assert version("trio") in of_testing[0].specifier
