"""Runs Cosmic Ray on one module, in a copy of the checkout, because it changes files in place."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .meaningless import meaningless
from .survivors import Survivor
from .targets import Target

__all__ = ["MutationFailed", "Result", "mutate"]

ROOT = Path(__file__).parents[2]
_COPIED = ("metafora_trio", "coordinators", "tests", "stress")
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-profile=mutation")

_BINARY = "Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Add|BitAnd_BitOr|BitOr_BitAnd|BitXor_BitAnd"
_COMPARISON = "Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Is_IsNot|IsNot_Is"
_EXCLUDED = (
    rf"core/ReplaceBinaryOperator_(?!({_BINARY})$)",
    rf"core/ReplaceComparisonOperator_(?!({_COMPARISON})$)",
    r"core/ReplaceUnaryOperator_(?!Delete_)",
)
"""The operators that are left out. An operator of Python gets its neighbour and its opposite, not all others, which the
same tests would notice."""


class MutationFailed(Exception):
    """The run on a module could not begin or gave no result."""


@dataclass(slots=True)
class Result:
    """The result for one module.

    Attributes:
        mutants: how many mutants were tried.
        by_timeout: how many were noticed only because the tests did not end.
        survivors: those that no test noticed, each with its diff.
    """

    mutants: int = 0
    by_timeout: int = 0
    survivors: list[tuple[Survivor, str]] = field(default_factory=list)


def mutate(target: Target, folder: Path) -> Result:
    """Run all mutants of one module, in a folder that becomes a copy of the checkout.

    Raises:
        MutationFailed: the tests fail without a mutant, or Cosmic Ray fails.
    """
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    _offer_operator(folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "coordinators")])}

    def run(*arguments: str) -> None:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise MutationFailed(f"{shlex.join(command)} in {folder}:\n{done.stdout}{done.stderr}")

    began = time.monotonic()
    run(*_PYTEST, *target.tests)  # also fills the caches of compiled modules, which no later run writes
    config, session = folder / "cosmic-ray.toml", folder / "session.sqlite"
    config.write_text(_config(target, timeout=10 + 8 * (time.monotonic() - began)))
    run("-m", "cosmic_ray.cli", "init", str(config), str(session))
    run("-m", "cosmic_ray.tools.filters.operators_filter", str(session), str(config))
    _skip_meaningless(session, (folder / target.module).read_text())
    run("-m", "cosmic_ray.cli", "exec", str(config), str(session))
    return _read(target, session)


def _offer_operator(folder: Path) -> None:
    """Declare our operator as an installed plugin: Cosmic Ray finds plugins by entry points on the path."""
    info = folder / "stress_mutation-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stress-mutation\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[cosmic_ray.operator_providers]\nmetafora = stress.mutation.statements:Provider\n"
    )


def _config(target: Target, timeout: float) -> str:
    quoted = json.dumps  # a JSON string is a TOML string
    return "\n".join(
        [
            "[cosmic-ray]",
            f"module-path = {quoted(target.module)}",
            f"timeout = {timeout:.1f}",
            "excluded-modules = []",
            f"test-command = {quoted(shlex.join([sys.executable, *_PYTEST, *target.tests]))}",
            "[cosmic-ray.distributor]",
            'name = "local"',
            "[cosmic-ray.filters.operators-filter]",
            f"exclude-operators = {quoted(_EXCLUDED)}",
        ]
    )


def _open(session: Path) -> Any:
    # Imported late: the comparison and `--help` work without Cosmic Ray.
    from cosmic_ray.work_db import use_db  # pyright: ignore[reportMissingImports]

    return use_db(str(session))


def _skip_meaningless(session: Path, source: str) -> None:
    from cosmic_ray.work_item import WorkerOutcome, WorkResult  # pyright: ignore[reportMissingImports]

    spans = meaningless(source)
    with _open(session) as database:
        skipped = [
            item.job_id
            for item in database.pending_work_items
            if any(start <= mutation.start_pos < end for mutation in item.mutations for start, end in spans)
        ]
        database.set_multiple_results(skipped, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def _read(target: Target, session: Path) -> Result:
    """Read the results of a session.

    Raises:
        MutationFailed: Cosmic Ray could not try a mutant.
    """
    result = Result()
    outcomes: Counter[str] = Counter()
    with _open(session) as database:
        for item, outcome in database.completed_work_items:
            outcomes[outcome.worker_outcome.value] += 1
            if outcome.worker_outcome.value == "skipped":
                continue
            if outcome.worker_outcome.value != "normal":
                raise MutationFailed(f"{item} could not be tried: {outcome.output}")
            result.mutants += 1
            result.by_timeout += outcome.output == "timeout"
            if not outcome.is_killed:
                (mutation,) = item.mutations
                survivor = Survivor.from_diff(target.module, mutation.definition_name, outcome.diff)
                result.survivors.append((survivor, outcome.diff))
    if not outcomes["normal"]:
        raise MutationFailed(f"{target.module} has no mutants")
    return result
