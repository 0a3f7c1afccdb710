"""Judges a chaos run by the evidence in its folder: the histories, the faults, and the store.

It checks every promise that can be checked from outside, under the assumptions of the library's design: the gap after
a kill is bounded only if nothing else was wrong, and a frozen process counts as not running.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise

from metafora_trio.testing.history import EventName, HistoryEvent, Run, Verdict, check_history

from .cluster import TICK
from .evidence import SECOND, Evidence, is_innocent, node_of
from .faults import KINDS, FaultKind, calm, drain_limit
from .gaps import Gap, Restart, beside_crash_loop, ended_by, find_gaps, find_restarts
from .poison_handlers import IGNORES_CANCELLATION
from .records import FaultRecord
from .store import Row

__all__ = ["Judgement", "judge", "percentile", "settle_limit", "settled_now", "standing"]

_RECLAIM = 0.7
"""Seconds from the end of a dead node's session until its tasks run again."""
_SETTLE = 5.0
_WRITE = 5.0
"""Seconds after which a run must have written to the store: it begins at once, and a batch is written every 0.25 s."""


@dataclass(slots=True)
class Judgement:
    """The result of judging a run.

    Attributes:
        verdict: the verdict on the history alone.
        gaps: all gaps, by time.
        isolated: the gaps of innocent tasks after a kill with no other fault near it.
        restarts: the restarts of innocent tasks, by time.
        beside_crash_loop: the gaps of innocent tasks after the end of a process, while a node crashed again and again.
        gap_limit: the longest allowed isolated gap, in seconds.
        settled: seconds from the last heal until all tasks ran, evenly spread, and kept running; None if that never
            happened, or if the run was interrupted before the heal.
        settle_limit: the largest allowed `settled`, in seconds.
        old_accepted: writes with an old token that the store accepted.
        old_rejected: writes with an old token that the store refused. A store without fencing would accept them.
        interrupted: True if the run did not reach its end. Then the state at the end is not judged.
        lost: acknowledged tasks that at the end neither ran, nor were done, nor deleted; empty if interrupted.
        violations: each broken promise, each surprise, and each lack of evidence, one sentence each.
        notes: findings that break no promise.
    """

    verdict: Verdict
    gaps: list[Gap]
    isolated: list[Gap]
    restarts: list[Restart]
    beside_crash_loop: list[Gap]
    gap_limit: float
    settled: float | None
    settle_limit: float
    old_accepted: list[Row]
    old_rejected: list[Row]
    interrupted: bool
    lost: list[str]
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Restart]:
        """The restarts that nothing explains: innocent tasks that were restarted for the sake of another."""
        return [restart for restart in self.restarts if not restart.explained]

    @property
    def word(self) -> str:
        """The verdict in a word: violated, interrupted, or ok."""
        return "violated" if self.violations else "interrupted" if self.interrupted else "ok"


def percentile(values: Iterable[float], fraction: float) -> float:
    """Return a percentile by nearest rank; 0 if there are no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)] if ordered else 0.0


def settle_limit(session_timeout: float) -> float:
    """Return the seconds after the last heal within which all tasks must run, evenly spread."""
    return 2 * session_timeout + TICK + _SETTLE


def judge(evidence: Evidence) -> Judgement:
    """Check the evidence of a run against every promise."""
    verdict = check_history(evidence.events)
    interrupted = not evidence.complete or evidence.healed is None
    # A handler that ignores cancellation breaks the assumption that scopes close by the end of the lease.
    verdict.overlaps = [one for one in verdict.overlaps if not one.first.task.startswith(IGNORES_CANCELLATION)]
    gaps = find_gaps(verdict, evidence)
    alone = [fault for fault in evidence.faults if _isolated(fault, evidence)]
    judgement = Judgement(
        verdict,
        gaps,
        isolated=[
            gap
            for gap in gaps
            if gap.cause in alone and ended_by(gap.before, gap.cause) and is_innocent(gap.before.task)
        ],
        restarts=find_restarts(verdict, evidence),
        beside_crash_loop=beside_crash_loop(gaps, evidence),
        gap_limit=evidence.session_timeout + TICK + _RECLAIM,
        settled=_settled(evidence),
        settle_limit=settle_limit(evidence.session_timeout),
        old_accepted=_old_accepted(evidence.rows),
        old_rejected=[row for row in evidence.rows if not row.accepted],
        interrupted=interrupted,
        lost=[] if interrupted else verdict.lost,
    )
    judgement.violations += _violations(judgement, evidence)
    judgement.violations += _lacks(judgement, evidence)
    late_in_the_calm, late = _late_drains(evidence)
    judgement.violations += late_in_the_calm
    judgement.notes += late
    for kill in alone:
        if not any(gap.cause is kill for gap in judgement.isolated):
            judgement.notes.append(f"no gap was measured after {kill.target} alone was killed")
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
    for run in verdict.ran_when_done:
        yield f"{run.task} was done, and still ran in {run.process}"
    for task, deleted in _deleted(evidence.events).items():
        yield from _after_delete(task, deleted, found, evidence)
    for before, after in _again(verdict):
        yield f"{after.task} had ended in {before.process}, and ran again in the same session"
    for restart in found.unexplained:
        yield (
            f"{restart.before.task} stopped in {restart.before.process} and ran again in {restart.after.process}, and "
            f"nothing of its own explains it: {restart.cause}"
        )
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
    for process in verdict.never_thawed:
        yield f"{process} was sent SIGCONT after a freeze, but did not record its thaw"
    for task in found.lost:
        yield f"{task} is lost: acknowledged, neither running at the end, nor done, nor deleted"
    if found.interrupted:
        return
    if found.settled is None:
        yield "not all tasks ran, evenly spread, when the observation ended"
    elif found.settled > found.settle_limit:
        yield f"all ran, evenly spread, {found.settled:.1f} s after the heal, not within {found.settle_limit:.1f} s"


def _again(verdict: Verdict) -> Iterator[tuple[Run, Run]]:
    """Yield the runs that had ended by themselves, each with a next run that its own session started.

    A session that cannot write the end of a task must keep it, and not run the handler again.
    """
    for runs in verdict.runs_of.values():
        for before, after in pairwise(runs):
            if before.ended and not before.reason and before.node == after.node and before.life == after.life:
                yield before, after


def _after_delete(task: str, deleted: int, found: Judgement, evidence: Evidence) -> Iterator[str]:
    """Report runs of a deleted task that started too late, or that still ran too late.

    A node may start a deleted task only while it has not seen the tombstone. This cannot last longer than T: a node
    that starts a task got an answer to a write within T, and before that answer it got all earlier events.
    """
    limit = evidence.session_timeout + TICK
    for run in found.verdict.runs_of.get(task, ()):
        late = (run.start - deleted) / SECOND
        if late > limit:
            yield f"{task} started in {run.process} {late:.2f} s after it was deleted, not within {limit:.2f} s"
        elif run.open and not found.interrupted:
            yield f"{task} was deleted and still runs"
        elif found.verdict.awake(run, deleted) > found.settle_limit * SECOND:
            yield f"{task} still ran in {run.process} {(run.stop - deleted) / SECOND:.1f} s after it was deleted"


def _lacks(found: Judgement, evidence: Evidence) -> Iterator[str]:
    """Report missing evidence: a record that was never written proves nothing."""
    if not found.interrupted:
        if not any(event.ev is EventName.END for event in evidence.events):
            yield "no evidence: the history has no end"
        for what, there in (
            ("run of a task", found.verdict.runs),
            ("fault", evidence.faults),
            ("write", evidence.rows),
        ):
            if not there:
                yield f"no evidence: not one {what} is recorded"
    written = {(row.task, row.process, row.token) for row in evidence.rows}
    for run in chain.from_iterable(found.verdict.runs_of.values()):
        # While a process is frozen it may hold the lock of the store, and then all others wait.
        seconds = found.verdict.awake(run, nobody_frozen=True) / SECOND
        if seconds > _WRITE and (run.task, run.process, run.token) not in written:
            yield f"no evidence: {run.task} ran for {seconds:.1f} s in {run.process}, and has not written to the store"


def _late_drains(evidence: Evidence) -> tuple[list[str], list[str]]:
    """Return the nodes that were killed because they did not drain in time.

    The first list has those near which nothing else was wrong, the second has the others.
    """
    calm_ones: list[str] = []
    others: list[str] = []
    for fault in evidence.faults:
        text = f"had not left {drain_limit(evidence.session_timeout):g} s after it was told to"
        undisturbed = _undisturbed(fault, fault.end, evidence)
        into, under = (calm_ones, "with nothing else wrong") if undisturbed else (others, "under other faults")
        into += (f"{name} {text} ({fault.kind}), {under}" for name in fault.late)
    return calm_ones, others


def _old_accepted(rows: Iterable[Row]) -> list[Row]:
    """Return the accepted writes whose token is lower than one accepted before."""
    top: dict[str, int] = {}
    old = []
    for row in rows:
        if row.accepted:
            if row.token < top.get(row.task, row.token):
                old.append(row)
            top[row.task] = max(row.token, top.get(row.task, row.token))
    return old


# ---- gaps


def _isolated(kill: FaultRecord, evidence: Evidence) -> bool:
    """Return whether a fault is a kill with no other fault near it, before or after."""
    if kill.kind is not FaultKind.KILL:
        return False
    after = (evidence.session_timeout + TICK + _RECLAIM) * SECOND
    return _undisturbed(kill, kill.start + after, evidence)


def _undisturbed(fault: FaultRecord, until: float, evidence: Evidence) -> bool:
    """Return whether nothing else was wrong from well before a fault until a time."""
    before = calm(evidence.session_timeout) * SECOND
    return not any(
        other is not fault and other.start <= until and fault.start <= other.end + before
        for other in evidence.faults
        if KINDS[other.kind].fault and not other.skipped
    )


# ---- the end


def standing(events: Iterable[HistoryEvent]) -> dict[str, set[str]]:
    """Return the tasks that run in each process after some events, given in order of time."""
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
    """Return whether all expected tasks run, evenly spread over the nodes."""
    loads = dict.fromkeys(nodes, 0)
    everything: set[str] = set()
    for process, tasks in running.items():
        everything |= tasks
        loads[node_of(process)] = loads.get(node_of(process), 0) + len(tasks)
    return expected <= everything and max(loads.values()) - min(loads.values()) <= 1


def _deleted(events: Iterable[HistoryEvent]) -> dict[str, int]:
    """Return the time at which the delete of each deleted task was acknowledged."""
    return {event.task: event.t for event in events if event.ev is EventName.DELETE}


def _expected(events: Iterable[HistoryEvent]) -> set[str]:
    """Return the acknowledged tasks that must run at the end."""
    submitted = {event.task for event in events if event.ev is EventName.SUBMIT}
    return submitted - {event.task for event in events if event.ev in (EventName.DONE, EventName.DELETE)}


def _settled(evidence: Evidence) -> float | None:
    """Return the seconds from the last heal until all tasks ran, evenly spread, and did so until the end."""
    if evidence.healed is None:
        return None
    expected = _expected(evidence.events)
    running: dict[str, set[str]] = defaultdict(set)
    since: int | None = None
    # Add an event at the heal itself. Otherwise tasks that run then, without any later event, would never be checked.
    instants = [HistoryEvent(evidence.healed, EventName.SUBMIT), *evidence.events]
    for t, together in groupby(sorted(instants, key=lambda event: event.t), key=lambda event: event.t):
        for event in together:
            if event.ev is EventName.END:
                return None if since is None else (since - evidence.healed) / SECOND
            _move(running, event)
        if t >= evidence.healed:
            settled = settled_now(running, expected, evidence.nodes)
            since = None if not settled else t if since is None else since
    return None if since is None else (since - evidence.healed) / SECOND
