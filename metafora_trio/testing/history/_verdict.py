"""The verdict on a history: the runs of each task, and the promises that they broke."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, takewhile

from ._history import EventName, HistoryEvent

__all__ = ["AFTER_RESUME", "AFTER_THAW", "Overlap", "Run", "Verdict", "check_history"]

AFTER_THAW = 50_000_000
"""Nanoseconds that a process has after a thaw to cancel the tasks that it no longer owns."""
AFTER_RESUME = 1_000_000_000
"""Nanoseconds after a SIGCONT from which a process counts as thawed, even if it has not written its THAW. On a busy
machine it may have to wait for a CPU, but not longer than this. Without a limit, a missing THAW would excuse anything
that the process does."""
_EVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task.

    Attributes:
        start: when it started, in nanoseconds of CLOCK_MONOTONIC.
        stop: when it stopped; without a stop event, when its process died or the history ended.
        task: the task's id.
        token: the fencing token.
        node: the identity of the session that owned the task.
        process: the process that ran it.
        life: the number of times that the task had been done before.
        open: True if it still ran when the history ended.
        ended: the `ended` of its stop event.
        reason: the `reason` of its stop event.
    """

    start: int
    stop: int
    task: str
    token: int
    node: str
    process: str
    life: int = 0
    open: bool = False
    ended: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two runs of one task at once.

    Attributes:
        first: the run that started first.
        second: the other run.
        ns: the nanoseconds in which both ran and neither was frozen.
    """

    first: Run
    second: Run
    ns: int


@dataclass(slots=True)
class Verdict:
    """The result of checking a history.

    Attributes:
        runs: the number of runs.
        overlaps: runs of one task at the same time.
        tokens_out_of_order: pairs of successive runs in which the token did not grow. A restart within one session
            is not among them, because it keeps its claim.
        started_after_done: runs of a task that was done and not submitted again. They started after a client had seen
            the task done, or after the last run that ended before the client saw that: only that run can have
            completed the task.
        ran_when_done: runs that started before a client saw the task done and were still running then. Only a frozen
            process may have such a run.
        never_thawed: processes that had run tasks, were sent a SIGCONT, and never wrote a THAW.
        lost: acknowledged tasks that at the end neither run, nor are done, nor deleted.
        strays: stops without a start.
        gaps: the seconds from the end of each run to the start of the task's next run, ascending. There is none if
            the runs overlap, or if the task was done between them.
        runs_of: the runs of each task, by start.
        frozen: the spans in which each process was frozen, each with the grace after the thaw.
    """

    runs: int = 0
    overlaps: list[Overlap] = field(default_factory=list)
    tokens_out_of_order: list[tuple[Run, Run]] = field(default_factory=list)
    started_after_done: list[Run] = field(default_factory=list)
    ran_when_done: list[Run] = field(default_factory=list)
    never_thawed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    strays: list[HistoryEvent] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    runs_of: Mapping[str, Sequence[Run]] = field(default_factory=dict, repr=False)
    frozen: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """True if no promise was broken."""
        after_done = self.started_after_done or self.ran_when_done
        return not (self.overlaps or self.tokens_out_of_order or after_done or self.lost or self.strays)

    @property
    def duplicate_runs(self) -> int:
        """The number of overlaps."""
        return len(self.overlaps)

    @property
    def tasks_lost(self) -> int:
        """The number of lost tasks."""
        return len(self.lost)

    @property
    def overlap_seconds(self) -> float:
        """The longest overlap, in seconds; 0 if there is none."""
        return max((overlap.ns for overlap in self.overlaps), default=0) / 1e9

    def awake(self, run: Run, since: int = 0, *, nobody_frozen: bool = False) -> int:
        """Return the nanoseconds after `since` in which a run ran and its process was not frozen.

        With `nobody_frozen`, count only the time in which no process was frozen.
        """
        windows = chain(*self.frozen.values()) if nobody_frozen else self.frozen.get(run.process, ())
        return _length((max(run.start, since), run.stop), windows)

    def gap(self, fraction: float) -> float:
        """Return a percentile of the gaps in seconds, by nearest rank: 0.5 is the median, 1 the longest gap.

        Return 0 if there are no gaps.
        """
        return self.gaps[max(0, math.ceil(fraction * len(self.gaps)) - 1)] if self.gaps else 0.0


def check_history(events: Iterable[HistoryEvent], *, after_thaw: int = AFTER_THAW) -> Verdict:
    """Check a history. Takes O(n log n) if runs do not overlap.

    Args:
        events: the events in any order, except that events of one instant must be in the order in which they happened.
        after_thaw: nanoseconds that a process has after a thaw to cancel the tasks that it no longer owns.
    """
    reader = _HistoryReader()
    in_order = sorted(events, key=lambda event: event.t)
    for event in takewhile(lambda event: event.ev is not EventName.END, in_order):
        reader.add(event)
    # Open runs last beyond the last event. Otherwise a second run whose start is that event would not overlap.
    last = next((event.t for event in in_order if event.ev is EventName.END), in_order[-1].t + 1 if in_order else 0)
    runs = reader.finish(last, after_thaw)
    count = sum(map(len, runs.values()))
    verdict = Verdict(
        count,
        started_after_done=reader.after_done,
        never_thawed=reader.never_thawed,
        strays=reader.strays,
        runs_of=runs,
        frozen=reader.frozen,
    )
    for task, of_task in runs.items():
        _check_overlaps(of_task, verdict)
        _check_order(of_task, verdict)
        _check_done(of_task, reader.done.get(task, ()), verdict)
    for task, over in reader.over.items():
        if not over and not any(run.open for run in runs.get(task, ())):
            verdict.lost.append(task)
    verdict.gaps.sort()
    return verdict


class _HistoryReader:
    """Reads events in order, and collects the runs and the spans in which each process was frozen."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.frozen: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.never_thawed: list[str] = []
        self.over: dict[str, bool] = {}  # for each submitted task: True if it is done or deleted
        self.done: dict[str, list[int]] = defaultdict(list)
        self.after_done: list[Run] = []
        self.strays: list[HistoryEvent] = []
        self._running: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
        self._resumed: dict[str, int] = {}  # the time of the SIGCONT, for processes that have not written their THAW
        self._dead_until_submit: set[str] = set()

    def add(self, event: HistoryEvent) -> None:
        match event.ev:
            case EventName.START:
                self._start(event)
            case EventName.STOP:
                if begun := self._running.get((event.process, event.task, event.token)):
                    run = replace(begun.pop(0), stop=event.t, open=False, ended=event.ended, reason=event.reason)
                    self.runs.append(run)
                else:
                    self.strays.append(event)
            case EventName.KILL:
                for key in [key for key in self._running if key[0] == event.process]:
                    self.runs += (replace(run, stop=event.t, open=False) for run in self._running.pop(key))
                self._thaw(event.process, event.t)
            case EventName.FREEZE:
                self._thaw(event.process, event.t)
                self.frozen[event.process].append((event.t, _EVER))
            case EventName.RESUME:
                if self._is_frozen(event.process):
                    self._resumed[event.process] = event.t
            case EventName.THAW:
                self._thaw(event.process, event.t)
            case EventName.SUBMIT:
                self.over[event.task] = False
                self._dead_until_submit.discard(event.task)
            case EventName.DONE:
                self.over[event.task] = True
                self.done[event.task].append(event.t)
                self._dead_until_submit.add(event.task)
            case _:  # a delete: the task may still start, until its owner sees the tombstone
                self.over[event.task] = True

    def finish(self, last: int, after_thaw: int) -> dict[str, list[Run]]:
        """Return the runs of each task by start. Runs that are still open stop at `last`."""
        self.runs += (replace(run, stop=last) for begun in self._running.values() for run in begun)
        for process, t in list(self._resumed.items()):
            # Before its first run, a process may not have installed its SIGCONT handler yet.
            if t + AFTER_RESUME < last and any(run.process == process and run.start < t for run in self.runs):
                self.never_thawed.append(process)
            self._thaw(process, _EVER)
        for windows in self.frozen.values():
            windows[:] = [(start, stop + after_thaw) for start, stop in windows]
        of_task: dict[str, list[Run]] = defaultdict(list)
        for run in sorted(self.runs, key=lambda run: (run.start, run.token)):
            of_task[run.task].append(run)
        return of_task

    def _start(self, event: HistoryEvent) -> None:
        life = len(self.done[event.task])
        run = Run(event.t, _EVER, event.task, event.token, event.node, event.process, life, open=True)
        self._running[event.process, event.task, event.token].append(run)
        if event.task in self._dead_until_submit:
            self.after_done.append(run)

    def _is_frozen(self, process: str) -> bool:
        windows = self.frozen[process]
        return bool(windows) and windows[-1][1] == _EVER

    def _thaw(self, process: str, t: int) -> None:
        if self._is_frozen(process):
            windows = self.frozen[process]
            windows[-1] = (windows[-1][0], min(t, self._resumed.pop(process, _EVER) + AFTER_RESUME))


def _check_overlaps(runs: Sequence[Run], verdict: Verdict) -> None:
    active: list[Run] = []
    for run in runs:
        active = [earlier for earlier in active if earlier.stop > run.start]
        for earlier in active:
            windows = (*verdict.frozen.get(earlier.process, ()), *verdict.frozen.get(run.process, ()))
            if ns := _length((run.start, min(earlier.stop, run.stop)), windows):
                verdict.overlaps.append(Overlap(earlier, run, ns))
        active.append(run)


def _check_done(runs: Sequence[Run], done: Sequence[int], verdict: Verdict) -> None:
    """Check the runs of one task that started before a client saw it done.

    Clients see that late. But a task is completed by a run that ended and kept its claim until then. The latest run
    that ended is the last that can have completed it, so any run that started later started after the task was done.
    """
    for life, seen in enumerate(done):
        of_life = [run for run in runs if run.life == life and run.start <= seen]
        ends = [run.stop for run in of_life if run.ended and run.stop <= seen]
        late = [run for run in of_life if ends and run.start > max(ends)]
        verdict.started_after_done += late
        verdict.ran_when_done += (run for run in of_life if run not in late and verdict.awake(run, seen))


def _length(span: tuple[int, int], windows: Iterable[tuple[int, int]]) -> int:
    """Return the length of a span without the parts that some windows cover."""
    parts = [span] if span[0] < span[1] else []
    for window in windows:
        parts = [part for whole in parts for part in _without(whole, window)]
    return sum(stop - start for start, stop in parts)


def _without(whole: tuple[int, int], window: tuple[int, int]) -> list[tuple[int, int]]:
    (start, stop), (cut_start, cut_stop) = whole, window
    return [part for part in ((start, min(stop, cut_start)), (max(start, cut_stop), stop)) if part[0] < part[1]]


def _check_order(runs: Sequence[Run], verdict: Verdict) -> None:
    """Check the tokens of successive runs of one task, and collect the gaps between them."""
    for before, run in pairwise(runs):
        if run.token < before.token or (run.token == before.token and run.node != before.node):
            verdict.tokens_out_of_order.append((before, run))
        if run.start >= before.stop and run.life == before.life:
            verdict.gaps.append((run.start - before.stop) / 1e9)
