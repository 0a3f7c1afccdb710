"""The pytest plugin: its cost for projects that do not use it, and its fixture for those that do."""

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
    """Run a file of tests as a user would, without the settings of this project; return the last line."""
    (folder / "test_it.py").write_text(source)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", "/dev/null", "--rootdir", str(folder)]
    run = subprocess.run([sys.executable, "-m", "pytest", *options, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()[-1]


def test_a_run_without_the_fixture_loads_only_the_plugin(tmp_path: Path) -> None:
    """A pytest run in which no test asks for the fixture does not depend on private names of Trio."""
    assert run_pytest(tmp_path, _OF_A_STRANGER).startswith("1 passed")


def test_clusters_are_closed_after_the_test(tmp_path: Path) -> None:
    """The fixture makes any number of clusters, in memory by default, and leaves none of their processes behind."""
    assert run_pytest(tmp_path, _OF_A_USER).startswith("3 passed")


def test_the_broker_can_be_chosen(tmp_path: Path) -> None:
    """With a broker whose nodes have processes of their own, a test can pause them."""
    assert run_pytest(tmp_path, _WITH_A_BROKER).startswith("1 passed")


def test_the_extra_for_testing_limits_trio() -> None:
    """`World` uses private names of Trio, so the extra `testing` allows only versions of Trio that have been tested.

    If a newer Trio breaks the canary in tests/simulation/test_world.py, fix `_world.py` before you widen the range.
    """
    of_testing = [
        requirement
        for requirement in map(Requirement, requires("metafora-trio") or ())
        if requirement.name == "trio" and requirement.marker and requirement.marker.evaluate({"extra": "testing"})
    ]
    assert [any(it.operator == "<" for it in requirement.specifier) for requirement in of_testing] == [True]
    assert version("trio") in of_testing[0].specifier
