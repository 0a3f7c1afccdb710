"""The worked example of docs/howto/test-your-handler.md: the test finds the bug, and passes without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from metafora_trio import Handler
from metafora_trio.testing.simulation import SimulatedCluster
from tests.support.pages import python_blocks, run_blocks

PAGE = "docs/howto/test-your-handler.md"


@pytest.fixture
def page() -> dict[str, Any]:
    return run_blocks(PAGE)


def test_the_bug_is_found(page: dict[str, Any], metafora_cluster: Callable[..., SimulatedCluster]) -> None:
    with pytest.raises(AssertionError):
        page["test_progress_survives_a_pause"](metafora_cluster)


def test_the_fixed_handler_passes(page: dict[str, Any], metafora_cluster: Callable[..., SimulatedCluster]) -> None:
    page["crawl"] = page["crawl_better"]
    page["test_progress_survives_a_pause"](metafora_cluster)


def test_a_kill_does_not_show_the_bug(page: dict[str, Any], metafora_cluster: Callable[..., SimulatedCluster]) -> None:
    """Only a pause shows it, as the page says."""

    def kill_instead(handler: Handler, **options: Any) -> SimulatedCluster:
        cluster = metafora_cluster(handler, **options)
        vars(cluster)["pause"] = lambda node, seconds: cluster.crash(node)
        return cluster

    page["test_progress_survives_a_pause"](kill_instead)


def test_the_example_is_short() -> None:
    """The page promises a test of under 40 lines."""
    (test,) = [block for block in python_blocks(PAGE) if "def test_" in block]
    assert len(test.splitlines()) < 40
