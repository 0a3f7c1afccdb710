"""Hypothesis settings for every test.

Time in the core's tests is virtual (the fixture `autojump_clock`, or `trio.run(main, clock=MockClock(...))` in a
property). In tests with threads, such as those of kazoo, it is real.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

# No deadline: the machine that runs the tests is shared, and a slow example is not a wrong one. In CI the examples are
# the same in each run, so only a change can make them fail. `--hypothesis-profile=deep` searches for more.
settings.register_profile("metafora", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.register_profile("deep", deadline=None, print_blob=True, max_examples=5000)
# For `stress.mutation`: the same examples for each mutant, and no time spent on shrinking what fails.
settings.register_profile(
    "mutation", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("metafora")

# A shell starts background jobs with SIGINT ignored, and every process of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def ctrl_c_is_left_alone() -> Iterator[None]:
    """Fail a test that leaves its own SIGINT handler behind. Otherwise another test could fail, in some orders."""
    yield
    left = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert left is signal.default_int_handler


@pytest.fixture(autouse=True)
def coverage_is_left_alone() -> Iterator[None]:
    """Fail a test that loses the trace function. Otherwise the branches that later tests run would count as missed."""
    before = sys.gettrace()
    yield
    left = sys.gettrace()
    sys.settrace(before)
    assert type(left) is type(before)
