"""The noxfile asks for ZooKeeper only if it must, and the commands on the pages select tests."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from noxfile import ROOT, may_need_zookeeper

SELECTIONS = sorted(
    {
        command
        for page in ("CONTRIBUTING.md", "noxfile.py")
        for command in re.findall(r"`nox -s tests -- ([^`]+)`", Path(ROOT, page).read_text())
    }
)
"""The arguments that the project's own examples pass to pytest."""


@pytest.mark.parametrize(
    "arguments",
    [
        "tests/core",
        "tests/core/",
        "./tests/core",
        f"{ROOT}/tests/core",
        "tests/zookeeper/../core",
        "tests/model/test_view.py::test_queue",
        "tests/model/test_view.py -k queue",
        "-x tests/core tests/client",
        "tests/stress/test_chaos_check.py",
        "tests/core --randomly-seed=7",
        "--ignore=tests/zookeeper",
        "--ignore tests/zookeeper",
        "-k drain --ignore=tests/zookeeper/",
    ],
)
def test_a_selection_without_servers_asks_for_none(arguments: str) -> None:
    assert not may_need_zookeeper(arguments.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "tests",
        ".",
        "tests/core .",
        "tests/zookeeper",
        "tests/zookeeper/test_session.py::test_joining",
        "tests/core tests/zookeeper/test_session.py",
        "--randomly-seed=7",
        "-k drain",
        "-k examples",  # the name of a folder, but not one of tests
        "--ignore=tests/core",
        "--ignore tests/core",
        "--deselect tests/core/test_stopping.py",
        "--ignore=tests/zookeeper/test_session.py",
    ],
)
def test_a_selection_that_may_start_servers_asks_for_zookeeper(arguments: str) -> None:
    """If in doubt it asks, because a test without its servers would fail."""
    assert may_need_zookeeper(arguments.split())


@pytest.mark.parametrize("arguments", SELECTIONS)
def test_an_example_selects_a_test(arguments: str) -> None:
    """A reader's first command works: pytest finds the tests. Options alone are tried on one small folder."""
    words = shlex.split(arguments)
    folder = [] if any(word.startswith("tests/") for word in words) else ["tests/model"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *words, *folder]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_some_example_needs_no_zookeeper() -> None:
    assert not all(may_need_zookeeper(shlex.split(arguments)) for arguments in SELECTIONS)
