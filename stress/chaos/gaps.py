"""Gaps and restarts: why a task that should run did not, and whether it stopped for the sake of another task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import pairwise

from metafora_trio import StopReason
from metafora_trio.testing.history import EventName, Run, Verdict

from .evidence import SECOND, Evidence, is_innocent, node_of
from .faults import KINDS, FaultKind, calm
from .records import FaultRecord

__all__ = ["Gap", "Restart", "beside_crash_loop", "ended_by", "find_gaps", "find_restarts"]

_MOVES = {FaultKind.SUBMIT, FaultKind.DELETE, FaultKind.BALANCE}
_DRAINS = {FaultKind.DRAIN, FaultKind.JOIN, FaultKind.ROLL_NODES, FaultKind.NAMESAKE}
_RELEASES = {FaultKind.STOP, FaultKind.BALANCE}
_KEEPS_SESSION = {FaultKind.HOLD, FaultKind.CLOCK, *_DRAINS}
"""Faults that must not cost a node its session."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A span in which a task that should run did not.

    Attributes:
        before, after: the runs around it.
        cause: the fault that most likely caused it; None if the nodes were only balancing.
    """

    before: Run
    after: Run
    cause: FaultRecord | None

    @property
    def seconds(self) -> float:
        return (self.after.start - self.before.stop) / SECOND


@dataclass(frozen=True, slots=True)
class Restart:
    """An innocent task that ran, was stopped before it had ended, and ran again.

    Attributes:
        before, after: the runs around it.
        cause: the kind of the fault or of the user command that explains it, "handover", or what was seen instead.
        explained: False if nothing explains it. Then the task was restarted for the sake of another.
    """

    before: Run
    after: Run
    cause: str
    explained: bool


def find_gaps(verdict: Verdict, evidence: Evidence) -> list[Gap]:
    """Return all gaps by time."""
    return sorted(_gaps(verdict, evidence), key=lambda gap: gap.before.stop)


def _gaps(verdict: Verdict, evidence: Evidence) -> Iterator[Gap]:
    for runs in verdict.runs_of.values():
        for before, after in pairwise(runs):
            if after.start >= before.stop and after.life == before.life:
                yield Gap(before, after, _cause(before, evidence))


def _cause(run: Run, evidence: Evidence) -> FaultRecord | None:
    """Return the fault that most likely ended a run, or None.

    Of the faults whose effect was not over, prefer those on the node of the run, then faults over user commands that
    only make tasks move (a move hardly interrupts a task), then the one that began last.
    """
    return max(
        _in_effect(run, evidence),
        key=lambda fault: (fault.target == node_of(run.process), fault.kind not in _MOVES, fault.start),
        default=None,
    )


def ended_by(run: Run, kill: FaultRecord | None) -> bool:
    """Return whether this kill of its process ended a run."""
    return kill is not None and node_of(run.process) == kill.target and kill.start <= run.stop <= kill.start + SECOND


def _in_effect(run: Run, evidence: Evidence) -> list[FaultRecord]:
    """Return the faults whose effect was not over when a run stopped. Poison has none, so it is not among them."""
    left = calm(evidence.session_timeout) * SECOND
    return [
        fault
        for fault in evidence.faults
        if fault.start <= run.stop <= fault.end + left and not fault.skipped and KINDS[fault.kind].target != "poison"
    ]


# ---- restarts


def find_restarts(verdict: Verdict, evidence: Evidence) -> list[Restart]:
    """Return the restarts of innocent tasks by time, each with its cause."""
    killed = {(event.process, event.t) for event in evidence.events if event.ev is EventName.KILL}
    found: list[Restart] = []
    for task, runs in verdict.runs_of.items():
        if is_innocent(task):
            for before, after in pairwise(runs):
                if before.life == after.life and not before.ended and not before.open:
                    found.append(_restart(before, after, killed, evidence))
    return sorted(found, key=lambda restart: restart.before.stop)


def _restart(before: Run, after: Run, killed: Set[tuple[str, int]], evidence: Evidence) -> Restart:
    node = node_of(before.process)
    match before.reason:
        case StopReason.HANDED_OVER:
            return Restart(before, after, "handover", explained=True)
        case StopReason.RELEASED:
            cause = _latest(before, _RELEASES, evidence)
        case StopReason.DRAINED | StopReason.SHUTDOWN:
            cause = _latest(before, _DRAINS, evidence)
        case StopReason.DELETED:
            cause = _latest(before, {FaultKind.DELETE}, evidence)
        case StopReason.SESSION_LOST | StopReason.CLAIM_LOST:
            cause = _latest(before, _disturbing() - _KEEPS_SESSION, evidence, node)
        case "" if (before.process, before.stop) in killed:
            cause = _latest(before, _disturbing() | _DRAINS, evidence, node)
        case _:
            cause = None
    if cause is not None:
        return Restart(before, after, cause.kind, explained=True)
    ended = (before.process, before.stop) in killed
    return Restart(before, after, before.reason or ("process ended" if ended else "no reason"), explained=False)


def _disturbing() -> set[FaultKind]:
    return {kind for kind, about in KINDS.items() if about.fault}


def _latest(run: Run, kinds: Set[FaultKind], evidence: Evidence, node: str | None = None) -> FaultRecord | None:
    """Return the fault of some kinds whose effect was not over when a run stopped, or None.

    Args:
        run: the run that stopped.
        kinds: the kinds to look for.
        evidence: the evidence of the run.
        node: if given, leave out the faults of other nodes. Prefer those of this node over those of servers.
    """
    return max(
        (
            fault
            for fault in _in_effect(run, evidence)
            if fault.kind in kinds
            and (node is None or fault.target in (node, "") or "server" in KINDS[fault.kind].target)
        ),
        key=lambda fault: (fault.target == node, fault.start),
        default=None,
    )


def beside_crash_loop(gaps: Iterable[Gap], evidence: Evidence) -> list[Gap]:
    """Return the gaps of innocent tasks that began while a node crashed again and again, with the end of a process."""
    loops = [fault for fault in evidence.faults if fault.kind is FaultKind.CRASH_LOOP]
    killed = {(event.process, event.t) for event in evidence.events if event.ev is EventName.KILL}
    return [
        gap
        for gap in gaps
        if is_innocent(gap.before.task)
        and (gap.before.process, gap.before.stop) in killed
        and any(loop.start <= gap.before.stop <= loop.end for loop in loops)
    ]
