"""The modules that the mutation run changes, each with the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TARGETS", "Target"]

MODEL = "metafora_trio/_model"
SESSION = "coordinators/metafora_trio_zookeeper/_session"


@dataclass(frozen=True, slots=True)
class Target:
    """One module, and its tests.

    Attributes:
        module: its file, relative to the checkout.
        tests: what to pass to pytest: quick tests on virtual time, those that fail soonest first.
    """

    module: str
    tests: tuple[str, ...]


def _model(name: str, *more: str) -> Target:
    return Target(f"{MODEL}/{name}.py", (f"tests/model/test_{name}.py", *more))


TARGETS = {
    "lease": _model("lease"),
    "reconcile": _model("reconcile"),
    "view": _model("view"),
    "overrun": _model("overrun"),
    "failure_streak": _model("failure_streak"),
    "probation": _model("probation"),
    "lethal_tasks": _model("lethal_tasks"),
    "in_flight": Target(
        f"{SESSION}/in_flight.py",
        (
            "tests/zookeeper/test_in_flight.py",
            "tests/zookeeper/test_requests.py",
            "tests/zookeeper/test_refusals.py",
            "tests/zookeeper/test_interleavings.py",
        ),
    ),
    "heartbeat": Target(
        f"{SESSION}/heartbeat.py",
        (
            "tests/zookeeper/test_heartbeat_times.py",
            "tests/zookeeper/test_suspended.py",
            "tests/zookeeper/test_heartbeat.py",
        ),
    ),
    "batch": Target(f"{SESSION}/batch.py", ("tests/zookeeper/test_batch.py",)),
    "read_ahead": Target(f"{SESSION}/read_ahead.py", ("tests/zookeeper/test_read_ahead.py",)),
    "changed_tasks": Target(f"{SESSION}/changed_tasks.py", ("tests/zookeeper/test_changed_tasks.py",)),
}
"""By the name used on the command line."""
