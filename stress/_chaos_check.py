"""Judges a chaos run, from what it has left in its folder: the histories, the faults, and the store.

Every promise that can be seen from outside is held against the history; assumptions are as in the library's design: the
gap after a kill is bounded only where nothing else was wrong, and a frozen process counts as not running.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from metafora_trio.testing import EventName, HistoryEvent, Run, Verdict, check_history

from ._chaos_cluster import TICK
from ._chaos_faults import KINDS, FaultKind, calm
from ._chaos_nemesis import Record
from ._chaos_store import Row

__all__ = ["Evidence", "Gap", "Judgement", "judge", "node_of", "percentile", "settle_limit", "settled_now", "standing"]

_RECLAIM = 0.7
"""Seconds from the end of a dead node's session until its tasks run again."""
_SETTLE = 5.0
_SECOND = 1e9


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run has left.

    Attributes:
        events: the histories of all processes and of the nemesis.
        faults: what was done.
        rows: what the store saw.
        session_timeout: T, in seconds.
        healed: when everything was healed, in nanoseconds; None if the run was interrupted before.
        surprises: what nobody had asked for, such as a node that ended by itself.
        nodes: the names of the nodes that are to share the tasks in the end.
    """

    events: Sequence[HistoryEvent]
    faults: Sequence[Record]
    rows: Sequence[Row]
    session_timeout: float
    healed: int | None
    surprises: Sequence[str] = ()
    nodes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which a task that is to run did not.

    Attributes:
        before, after: the runs around it.
        cause: the fault it is put down to; None where the nodes just balanced.
    """

    before: Run
    after: Run
    cause: Record | None

    @property
    def seconds(self) -> float:
        return (self.after.start - self.before.stop) / _SECOND


@dataclass(slots=True)
class Judgement:
    """What a run has shown.

    Attributes:
        verdict: what the history alone shows.
        gaps: all gaps, by time.
        isolated: the gaps after a kill with nothing else around it.
        gap_limit: what each of those may be, in seconds.
        settled: seconds from the last heal until everything ran, evenly spread, and went on so; None if it never did,
            or was interrupted.
        settle_limit: what that may be.
        old_accepted: writes with an old token that the store took.
        old_rejected: writes with an old token that it refused: what a store without fencing would have let through.
        violations: each broken promise, in a sentence.
    """

    verdict: Verdict
    gaps: list[Gap]
    isolated: list[Gap]
    gap_limit: float
    settled: float | None
    settle_limit: float
    old_accepted: list[Row]
    old_rejected: list[Row]
    violations: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no promise was broken."""
        return not self.violations


def node_of(process: str) -> str:
    """The name of the node of which a process was one life."""
    return process.rpartition(".")[0]


def percentile(values: Iterable[float], fraction: float) -> float:
    """Nearest rank; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)] if ordered else 0.0


def settle_limit(session_timeout: float) -> float:
    """Seconds from the last heal within which everything must run, evenly spread."""
    return 2 * session_timeout + TICK + _SETTLE


def judge(evidence: Evidence) -> Judgement:
    """Hold the evidence against every promise."""
    verdict = check_history(evidence.events)
    gaps = sorted(_gaps(verdict, evidence), key=lambda gap: gap.before.stop)
    alone = [fault for fault in evidence.faults if _isolated(fault, evidence)]
    judgement = Judgement(
        verdict,
        gaps,
        isolated=[gap for gap in gaps if gap.cause in alone and _ended_by(gap.before, gap.cause)],
        gap_limit=evidence.session_timeout + TICK + _RECLAIM,
        settled=_settled(evidence),
        settle_limit=settle_limit(evidence.session_timeout),
        old_accepted=_old_accepted(evidence.rows),
        old_rejected=[row for row in evidence.rows if not row.accepted],
    )
    judgement.violations += _violations(judgement, evidence)
    return judgement


def _violations(found: Judgement, evidence: Evidence) -> Iterator[str]:
    verdict = found.verdict
    for overlap in verdict.overlaps:
        one, other = overlap.first, overlap.second
        yield (
            f"overlap of {overlap.ns / 1e6:.1f} ms: {one.task} ran in {one.process} (token {one.token}) and in "
            f"{other.process} (token {other.token})"
        )
    for one, other in verdict.tokens_out_of_order:
        yield f"token {other.token} of {other.task} in {other.process} is not above {one.token} in {one.process}"
    for run in verdict.started_after_done:
        yield f"{run.task} was done, and started again in {run.process}"
    for event in verdict.strays:
        yield f"{event.task} stopped in {event.process} without a start"
    for row in found.old_accepted:
        yield f"the store took a write of {row.task} with the old token {row.token} from {row.process}"
    for gap in found.isolated:
        if gap.seconds > found.gap_limit:
            yield (
                f"{gap.before.task} ran again {gap.seconds:.2f} s after {gap.before.process} alone was killed, "
                f"not within {found.gap_limit:.2f} s"
            )
    yield from evidence.surprises
    if evidence.healed is None:
        return
    for task in verdict.lost:
        yield f"{task} is lost: acknowledged, neither running at the end, nor done, nor deleted"
    for task in _deleted(evidence.events):
        if any(run.open for run in verdict.runs_of.get(task, ())):
            yield f"{task} was deleted and still runs"
    if found.settled is None:
        yield "not all tasks ran, evenly spread, when the observation ended"
    elif found.settled > found.settle_limit:
        yield f"all ran, evenly spread, {found.settled:.1f} s after the heal, not within {found.settle_limit:.1f} s"


def _old_accepted(rows: Iterable[Row]) -> list[Row]:
    """The accepted writes whose token is below one that was accepted before."""
    top: dict[str, int] = {}
    old = []
    for row in rows:
        if row.accepted:
            if row.token < top.get(row.task, row.token):
                old.append(row)
            top[row.task] = max(row.token, top.get(row.task, row.token))
    return old


# ---- gaps


def _gaps(verdict: Verdict, evidence: Evidence) -> Iterator[Gap]:
    for runs in verdict.runs_of.values():
        for before, after in pairwise(runs):
            if after.start >= before.stop and after.life == before.life:
                yield Gap(before, after, _cause(before, evidence))


def _cause(run: Run, evidence: Evidence) -> Record | None:
    """The fault that most likely ended a run: the last to begin of those not over, on its node before others."""
    left = calm(evidence.session_timeout) * _SECOND
    running = [fault for fault in evidence.faults if fault.start <= run.stop <= fault.end + left and not fault.skipped]
    return max(running, key=lambda fault: (fault.target == node_of(run.process), fault.start), default=None)


def _ended_by(run: Run, kill: Record | None) -> bool:
    """Whether a run ended by the death of its process in this kill."""
    return kill is not None and node_of(run.process) == kill.target and kill.start <= run.stop <= kill.start + _SECOND


def _isolated(kill: Record, evidence: Evidence) -> bool:
    """Whether a node was killed while everything else was well, and long had been."""
    if kill.kind is not FaultKind.KILL:
        return False
    before = calm(evidence.session_timeout) * _SECOND
    after = (evidence.session_timeout + TICK + _RECLAIM) * _SECOND
    return not any(
        fault is not kill and fault.start <= kill.start + after and kill.start <= fault.end + before
        for fault in evidence.faults
        if KINDS[fault.kind].fault and not fault.skipped
    )


# ---- the end


def standing(events: Iterable[HistoryEvent]) -> dict[str, set[str]]:
    """Which tasks run in each process, by events in order of time."""
    running: dict[str, set[str]] = defaultdict(set)
    for event in events:
        _move(running, event)
    return running


def _move(running: dict[str, set[str]], event: HistoryEvent) -> None:
    match event.ev:
        case EventName.START:
            running[event.process].add(event.task)
        case EventName.STOP:
            running[event.process].discard(event.task)
        case EventName.KILL:
            running.pop(event.process, None)


def settled_now(running: Mapping[str, set[str]], expected: set[str], nodes: Sequence[str]) -> bool:
    """Whether all that is expected runs, spread evenly over the nodes."""
    loads = dict.fromkeys(nodes, 0)
    everything: set[str] = set()
    for process, tasks in running.items():
        everything |= tasks
        loads[node_of(process)] = loads.get(node_of(process), 0) + len(tasks)
    return expected <= everything and max(loads.values()) - min(loads.values()) <= 1


def _deleted(events: Iterable[HistoryEvent]) -> set[str]:
    return {event.task for event in events if event.ev is EventName.DELETE}


def _expected(events: Iterable[HistoryEvent]) -> set[str]:
    """The acknowledged tasks that are to run in the end."""
    submitted = {event.task for event in events if event.ev is EventName.SUBMIT}
    return submitted - {event.task for event in events if event.ev in (EventName.DONE, EventName.DELETE)}


def _settled(evidence: Evidence) -> float | None:
    """Seconds from the last heal until everything ran, and did to the end."""
    if evidence.healed is None:
        return None
    expected = _expected(evidence.events)
    running: dict[str, set[str]] = defaultdict(set)
    since: int | None = None
    # The heal is an instant of its own: what runs then may go on for ever, and no event tells.
    instants = [HistoryEvent(evidence.healed, EventName.SUBMIT), *evidence.events]
    for t, together in groupby(sorted(instants, key=lambda event: event.t), key=lambda event: event.t):
        for event in together:
            if event.ev is EventName.END:
                return None if since is None else (since - evidence.healed) / _SECOND
            _move(running, event)
        if t >= evidence.healed:
            settled = settled_now(running, expected, evidence.nodes)
            since = None if not settled else t if since is None else since
    return None if since is None else (since - evidence.healed) / _SECOND
