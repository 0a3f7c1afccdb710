"""The search: draw histories until one breaks a promise, and shorten that one."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from metafora_trio.testing.simulation import BrokenPromise

from .machine import Machine, quiet
from .script import play, shorten
from .tally import Failure, Tally
from .zookeeper_machine import ZooKeeperMachine

__all__ = ["search"]

_MACHINES: Mapping[str, type[Machine]] = {"zookeeper": ZooKeeperMachine}
"""Those that can do more than `Machine`, which knows what every broker may offer."""


def search(seed: int, histories: int, *, broker: str = "zookeeper", steps: int = 25) -> Tally:
    """Draw histories until one breaks a promise, and shorten that one.

    Hypothesis would shrink it, too, but draws everything again for that: this takes seconds instead of minutes.

    Args:
        seed: names the search: the same seed draws the same histories.
        histories: how many at most.
        broker: which one the clusters have, of `BROKERS`.
        steps: how many steps a history may have, after its beginning.

    Returns:
        What was done; `failure` says whether a promise was broken.
    """

    tally = Tally()
    machine = _MACHINES.get(broker, Machine)

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
