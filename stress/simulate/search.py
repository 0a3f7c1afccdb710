"""The search: draws histories until one breaks a promise, and shortens that one."""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from metafora_trio.testing.simulation import BrokenPromise

from .machine import Machine, quiet
from .races import RaceMachine
from .script import play, shorten
from .tally import Failure, Tally
from .zookeeper_machine import ZooKeeperMachine

__all__ = ["search"]

_MACHINES: Mapping[str, type[Machine]] = {"zookeeper": ZooKeeperMachine}
"""Machines that can do more than `RaceMachine`, which is limited to what any broker may offer."""


def search(seed: int, histories: int, *, broker: str = "zookeeper", steps: int = 25) -> Tally:
    """Draw histories until one breaks a promise, and shorten that one.

    Hypothesis could shrink it, too, but would draw everything again for that, which takes minutes instead of seconds.

    Args:
        seed: the same seed draws the same histories.
        histories: the maximum number of histories.
        broker: the name, in `BROKERS`, of the clusters' broker.
        steps: the maximum number of steps of a history, after its beginning.

    Returns:
        The totals. If a history failed, `failure` is set, and its `broken` says whether it broke a promise.
    """

    tally = Tally()
    machine = _MACHINES.get(broker, RaceMachine)

    @hypothesis.seed(seed)
    class Search(machine):  # type: ignore[misc,valid-type]
        pass

    Search.tally, Search.broker = tally, broker
    search_settings = settings(
        max_examples=histories,
        stateful_step_count=steps,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    with quiet(), _few_collections():
        try:
            run_state_machine_as_test(Search, settings=search_settings)
        except Exception:  # if the machine recorded a failed history, return it; anything else is a bug here
            if tally.failure is None:
                raise
        failure = tally.failure
        if failure is not None and failure.broken:
            tally.failure = _shortened(failure)
    return tally


@contextmanager
def _few_collections() -> Generator[None]:
    """Let Python look for garbage less often. A history makes much of it in cycles, but the modules make none, and
    looking through those again and again takes a tenth of the time."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _shortened(failure: Failure) -> Failure:
    script = shorten(failure.script)
    try:
        play(script)
    except BrokenPromise as broken:
        return Failure(script, str(broken), broken=True)
    return failure
