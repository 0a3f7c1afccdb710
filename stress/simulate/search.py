"""The search: draw histories until one breaks a promise, and shorten that one."""

from __future__ import annotations

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from metafora_trio.testing.simulation import BrokenPromise

from .machine import Failure, MemoryMachine, Tally, quiet
from .script import Broker, play, shorten
from .zookeeper_machine import ZooKeeperMachine

__all__ = ["search"]


def search(seed: int, histories: int, *, broker: Broker = "zookeeper", steps: int = 25) -> Tally:
    """Draw histories until one breaks a promise, and shorten that one.

    Hypothesis would shrink it, too, but draws everything anew for it: what takes it minutes takes seconds here.

    Args:
        seed: names the search: the same seed draws the same histories.
        histories: how many at most.
        broker: what the clusters stand on.
        steps: how many steps a history may have, after its beginning.

    Returns:
        What was done; `failure` says whether a promise was broken.
    """

    tally = Tally()
    machine = ZooKeeperMachine if broker == "zookeeper" else MemoryMachine

    @hypothesis.seed(seed)
    class Search(machine):  # type: ignore[misc,valid-type]
        pass

    Search.tally = tally
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
    with quiet():
        try:
            run_state_machine_as_test(Search, settings=search_settings)
        except Exception:  # the machine has noted a history that failed, and how; all else is a bug of ours
            if tally.failure is None:
                raise
        failure = tally.failure
        if failure is not None and failure.broken:
            tally.failure = _shortened(failure)
    return tally


def _shortened(failure: Failure) -> Failure:
    script = shorten(failure.script)
    try:
        play(script)
    except BrokenPromise as broken:
        return Failure(script, str(broken), broken=True)
    return failure
