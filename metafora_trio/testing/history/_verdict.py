"""The verdict on a history: the runs of each task, and whether they kept the promises."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, takewhile

from ._history import EventName, HistoryEvent

__all__ = ["AFTER_RESUME", "AFTER_THAW", "Overlap", "Run", "Verdict", "check_history"]

AFTER_THAW = 50_000_000
"""Nanoseconds that a process has after a thaw to cancel what is no longer its own."""
AFTER_RESUME = 1_000_000_000
"""Nanoseconds from a SIGCONT after which a process counts as thawed, also if it has not noted that it goes on. A busy
machine lets it wait for its turn, but not longer; and a freeze without an end would excuse whatever it does."""
_EVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task, from start to stop in nanoseconds. Without a stop of its own it lasted until the death of
    its process, or until the end (then it is `open`). `life` counts how often the task had been done before, `ended`
    is that of its stop."""

    start: int
    stop: int
    task: str
    token: int
    node: str
    process: str
    life: int = 0
    open: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two runs of one task at once.

    Attributes:
        first: the run that started first.
        second: the other one.
        ns: for how long both ran while neither was frozen.
    """

    first: Run
    second: Run
    ns: int


@dataclass(slots=True)
class Verdict:
    """What a history shows.

    Attributes:
        runs: how many runs there were.
        overlaps: runs of one task at the same time.
        tokens_out_of_order: runs whose token is not above that of the run before, other than a restart within one
            session, which keeps its claim.
        started_after_done: runs of a task that was done and not submitted again: they began after a client had seen
            it done, or after the last run that ended before that, so that only that one can have completed it.
        ran_when_done: runs that were going on when a client had seen the task done: none that began before may,
            except in a frozen process.
        never_thawed: processes that have run tasks, were sent a SIGCONT, and did not note that they go on.
        lost: acknowledged tasks that neither run at the end, nor are done or deleted.
        strays: stops without a start.
        gaps: from the end of each run to the start of the task's next, in seconds, ascending; none where they
            overlap, or the task was done between them.
        runs_of: the runs of each task, by start.
        frozen: when each process was frozen, with the time it is granted after the thaw.
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
        """Whether no promise was broken."""
        after_done = self.started_after_done or self.ran_when_done
        return not (self.overlaps or self.tokens_out_of_order or after_done or self.lost or self.strays)

    @property
    def duplicate_runs(self) -> int:
        """How many times a task ran twice at once."""
        return len(self.overlaps)

    @property
    def tasks_lost(self) -> int:
        """How many tasks are lost."""
        return len(self.lost)

    @property
    def overlap_seconds(self) -> float:
        """The longest overlap."""
        return max((overlap.ns for overlap in self.overlaps), default=0) / 1e9

    def awake(self, run: Run, since: int = 0, *, nobody_frozen: bool = False) -> int:
        """For how many nanoseconds after `since` a run went on while its process, or any, was not frozen."""
        windows = chain(*self.frozen.values()) if nobody_frozen else self.frozen.get(run.process, ())
        return _length((max(run.start, since), run.stop), windows)

    def gap(self, fraction: float) -> float:
        """A percentile of the gaps in seconds (nearest rank): 0.5 the median, 1 the longest; 0 if there are none."""
        return self.gaps[max(0, math.ceil(fraction * len(self.gaps)) - 1)] if self.gaps else 0.0


def check_history(events: Iterable[HistoryEvent], *, after_thaw: int = AFTER_THAW) -> Verdict:
    """Check a history, in O(n log n) as long as it is good: the tokens give the order of the runs.

    Args:
        events: in any order, but those of one instant in the order in which they happened.
        after_thaw: nanoseconds granted after a thaw.
    """
    reader = _HistoryReader()
    in_order = sorted(events, key=lambda event: event.t)
    for event in takewhile(lambda event: event.ev is not EventName.END, in_order):
        reader.add(event)
    # What is open goes on beyond the last event: a second run that starts as the very last one overlaps too.
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
    """Reads events in order, and puts together the runs and the times at which a process was frozen."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.frozen: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.never_thawed: list[str] = []
        self.over: dict[str, bool] = {}  # of each submitted task: whether it is done or deleted
        self.done: dict[str, list[int]] = defaultdict(list)
        self.after_done: list[Run] = []
        self.strays: list[HistoryEvent] = []
        self._running: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
        self._resumed: dict[str, int] = {}  # when the SIGCONT was sent to those that have not noted it
        self._dead_until_submit: set[str] = set()

    def add(self, event: HistoryEvent) -> None:
        match event.ev:
            case EventName.START:
                self._start(event)
            case EventName.STOP:
                if begun := self._running.get((event.process, event.task, event.token)):
                    self.runs.append(replace(begun.pop(0), stop=event.t, open=False, ended=event.ended))
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
            case _:  # a delete: the task may start once more, until its owner has seen the tombstone
                self.over[event.task] = True

    def finish(self, last: int, after_thaw: int) -> dict[str, list[Run]]:
        """The runs of each task by start; those that go on end at `last`."""
        self.runs += (replace(run, stop=last) for begun in self._running.values() for run in begun)
        for process, t in list(self._resumed.items()):
            # Before its first run a process may not yet know how to note it.
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
    """Look at the runs of one task that were there before a client has seen it done.

    Clients see that late. But a task is completed by a run that has ended, which keeps its claim until then: the last
    of those at the latest, and what began after it began after the task was done.
    """
    for life, seen in enumerate(done):
        of_life = [run for run in runs if run.life == life and run.start <= seen]
        ends = [run.stop for run in of_life if run.ended and run.stop <= seen]
        late = [run for run in of_life if ends and run.start > max(ends)]
        verdict.started_after_done += late
        verdict.ran_when_done += (run for run in of_life if run not in late and verdict.awake(run, seen))


def _length(span: tuple[int, int], windows: Iterable[tuple[int, int]]) -> int:
    """How much of a span is left without some windows."""
    parts = [span] if span[0] < span[1] else []
    for window in windows:
        parts = [part for whole in parts for part in _without(whole, window)]
    return sum(stop - start for start, stop in parts)


def _without(whole: tuple[int, int], window: tuple[int, int]) -> list[tuple[int, int]]:
    (start, stop), (cut, mend) = whole, window
    return [part for part in ((start, min(stop, cut)), (max(start, mend), stop)) if part[0] < part[1]]


def _check_order(runs: Sequence[Run], verdict: Verdict) -> None:
    """Look at the tokens and the gaps along the runs of one task."""
    for before, run in pairwise(runs):
        if run.token < before.token or (run.token == before.token and run.node != before.node):
            verdict.tokens_out_of_order.append((before, run))
        if run.start >= before.stop and run.life == before.life:
            verdict.gaps.append((run.start - before.stop) / 1e9)
