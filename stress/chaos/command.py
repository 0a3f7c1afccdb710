"""Chaos: real servers and node processes, faults drawn from a seed, and a checker that finds broken promises."""

from __future__ import annotations

import argparse
import json
import logging
import random
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from stress.arguments import at_least
from stress.signals import until_signal

from .check import Judgement, judge, percentile
from .cluster import Terms
from .packets import enter_namespace, missing_tools
from .report import write_report
from .run import read_evidence, run_chaos

__all__ = ["figures", "main"]

_PREFIX = "metafora-chaos-"
_SHOWN = 20
"""The largest number of violations that are printed."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stress.chaos",
        description=__doc__,
        epilog=(
            "examples:\n"
            "  python -m stress.chaos --seed 7 --report chaos.html\n"
            "  python -m stress.chaos --servers 1 --nodes 3 --tasks 30 --seconds 30 --json | tail -1\n"
            "  python -m stress.chaos --break lease\n"
            "  python -m stress.chaos --check FOLDER --report chaos.html\n\n"
            "Progress goes to standard error. Exit status: 0 every promise was kept; 1 a promise was broken, the run\n"
            "failed, or it left too little evidence; 2 usage; 130 interrupted, with a report on the run so far."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    terms = Terms()
    parser.add_argument("--servers", type=at_least(1), metavar="N", default=terms.servers, help="servers (%(default)s)")
    parser.add_argument("--nodes", type=at_least(2), metavar="N", default=terms.nodes, help="nodes (%(default)s)")
    parser.add_argument("--tasks", type=at_least(1), metavar="N", default=terms.tasks, help="tasks (%(default)s)")
    parser.add_argument(
        "--seconds", type=at_least(10), metavar="N", default=terms.seconds, help="seconds of faults (%(default)g)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same faults (default: a random seed)")
    parser.add_argument(
        "--session-timeout", type=float, metavar="T", default=terms.session_timeout, help="seconds (%(default)g)"
    )
    parser.add_argument(
        "--break",
        dest="broken",
        choices=("lease", "fencing"),
        help="run with a bug that must be found: tasks that ignore the lease, or a store that accepts old tokens",
    )
    parser.add_argument(
        "--links",
        choices=("proxy", "namespaces"),
        default=terms.links,
        help="break links by a TCP proxy (the default), or in a network namespace by dropping packets",
    )
    parser.add_argument(
        "--poison",
        action="store_true",
        help="add tasks, znodes and handlers that must cost no other task anything",
    )
    parser.add_argument(
        "--large",
        type=at_least(0),
        metavar="N",
        default=terms.large,
        help="with --poison: tasks with properties of nearly 512 KiB (%(default)s)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write an HTML report")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep histories, logs and store here")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="run nothing; judge a folder written by --keep")
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")
    return parser


def figures(judgement: Judgement, *, seconds: float, faults: int, seed: int) -> dict[str, Any]:
    """Return the figures of a run, as --json prints them."""
    gaps = [gap.seconds * 1000 for gap in judgement.gaps]
    beside_crash_loop = [gap.seconds * 1000 for gap in judgement.beside_crash_loop]
    return {
        "seconds": round(seconds, 1),
        "faults": faults,
        "runs": judgement.verdict.runs,
        "overlaps": len(judgement.verdict.overlaps),
        "lost": len(judgement.lost),
        "old_token_writes_accepted": len(judgement.old_accepted),
        "old_token_writes_rejected": len(judgement.old_rejected),
        "innocents_restarted": len(judgement.unexplained),
        "restarts": dict(Counter(restart.cause for restart in judgement.restarts).most_common()),
        "gap_p50_ms": round(percentile(gaps, 0.5), 1),
        "gap_p99_ms": round(percentile(gaps, 0.99), 1),
        "gap_max_ms": round(percentile(gaps, 1.0), 1),
        "crash_loop_gap_max_ms": round(percentile(beside_crash_loop, 1.0), 1),
        "verdict": judgement.word,
        "seed": seed,
    }


async def _run(terms: Terms, folder: Path) -> None:
    """Run the chaos run until it ends or a signal arrives. Its outline in the folder shows whether it was complete."""
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {what}", file=sys.stderr, flush=True)

    async with until_signal():
        await run_chaos(terms, folder, say)


def _command(terms: Terms) -> str:
    """Return the command that repeats a run."""
    parts = [f"--servers {terms.servers} --nodes {terms.nodes} --tasks {terms.tasks} --seconds {terms.seconds:g}"]
    parts += [f"--session-timeout {terms.session_timeout:g} --seed {terms.seed}"]
    parts += [f"--links {terms.links}"] if terms.links != Terms().links else []
    parts += [f"--poison --large {terms.large}"] if terms.poison else []
    parts += [f"--break {shlex.quote(terms.broken)}"] if terms.broken else []
    return " ".join(["python -m stress.chaos", *parts])


def _folder(asked: argparse.Namespace) -> Path:
    """Return the folder of the evidence: the one given on the command line, or a new one, in memory if possible."""
    if asked.check or asked.keep:
        named: Path = (asked.check or asked.keep).resolve()  # absolute, because nodes have other working directories
        named.mkdir(parents=True, exist_ok=True)
        return named
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=memory if memory.is_dir() else None))


def _put_away(folder: Path, *, keep: bool) -> None:
    """Remove a folder that was not given on the command line; with `keep`, copy it to disk first, and print where."""
    if keep:
        kept = tempfile.mkdtemp(prefix=_PREFIX)
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        print(f"the evidence is in {kept}; judge it again with: python -m stress.chaos --check {kept}", file=sys.stderr)
    shutil.rmtree(folder)


def _check(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> None:
    """Exit with status 2 if the arguments conflict with each other, or need something that this machine lacks."""
    if not 2 <= asked.session_timeout <= 10:
        parser.error("argument --session-timeout: must be 2 to 10 seconds, the range that the servers accept")
    if asked.keep and asked.keep.exists() and any(asked.keep.iterdir()):
        parser.error(f"argument --keep: {asked.keep} is not empty")
    if asked.check and not (asked.check / "run.json").exists():
        parser.error(f"argument --check: no evidence of a run in {asked.check}")
    if asked.report and not asked.report.parent.is_dir():
        parser.error(f"argument --report: the folder {asked.report.parent} does not exist")
    if asked.links == "namespaces" and (missing := missing_tools()):
        parser.error(f"argument --links: namespaces need {', '.join(missing)}")


def _terms(asked: argparse.Namespace) -> Terms:
    return Terms(
        servers=asked.servers,
        nodes=asked.nodes,
        tasks=asked.tasks,
        seconds=asked.seconds,
        seed=random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed,
        session_timeout=asked.session_timeout,
        broken=asked.broken,
        links=asked.links,
        poison=asked.poison,
        large=asked.large,
    )


def _print_result(judgement: Judgement, result: dict[str, Any], *, as_json: bool) -> None:
    out = sys.stderr if as_json else sys.stdout
    for key, value in result.items():
        if isinstance(value, dict):
            for name, count in value.items():
                print(f"{key + ': ' + name:28}{count:>12}", file=out)
        else:
            print(f"{key:28}{value:>12}", file=out)
    for violation in judgement.violations[:_SHOWN]:
        print(f"VIOLATION: {violation}", file=out)
    if len(judgement.violations) > _SHOWN:
        print(f"... and {len(judgement.violations) - _SHOWN} more", file=out)
    for note in judgement.notes:
        print(f"note: {note}", file=out)
    if as_json:
        print(json.dumps(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    logging.basicConfig(level=logging.ERROR)  # servers are killed on purpose: warnings about it are noise
    parser = _parser()
    asked = parser.parse_args(arguments)
    _check(parser, asked)
    if asked.links == "namespaces" and not asked.check:
        enter_namespace("stress.chaos", sys.argv[1:] if arguments is None else arguments)
    folder, keep = _folder(asked), True
    try:
        if not asked.check:
            terms = _terms(asked)
            print(_command(terms), file=sys.stderr, flush=True)
            _try_run(terms, folder)
        judgement, result = _judge(folder, asked)
        keep = judgement.word == "violated"
    finally:
        if not (asked.check or asked.keep):
            _put_away(folder, keep=keep)
    _print_result(judgement, result, as_json=asked.json)  # last: the JSON must be the last line of merged streams
    return {"ok": 0, "violated": 1, "interrupted": 130}[judgement.word]


def _try_run(terms: Terms, folder: Path) -> None:
    """Run the chaos run. If it fails, print the traceback and return: the evidence so far is judged anyway."""
    try:
        trio.run(_run, terms, folder)
    except Exception:  # noqa: BLE001 - any error is a failed run, which exits with 1
        traceback.print_exc()


def _judge(folder: Path, asked: argparse.Namespace) -> tuple[Judgement, dict[str, Any]]:
    """Judge the evidence in a folder, and write the report. Return the judgement and the figures."""
    outline, evidence = read_evidence(folder)
    judgement = judge(evidence)
    begin = outline.begin or outline.end or 0
    seconds = ((outline.end or begin) - begin) / 1e9
    done = [fault for fault in evidence.faults if not fault.skipped]
    result = figures(judgement, seconds=seconds, faults=len(done), seed=outline.terms.seed)
    if asked.report:
        write_report(asked.report, outline, evidence, judgement, result, command=_command(outline.terms))
    return judgement, result
