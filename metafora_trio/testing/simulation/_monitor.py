"""Monitor: watches the runs in a simulated cluster as they happen, and checks them against the promises.

`check_history` reads afterwards what real processes wrote. The monitor knows at every instant which scopes are open
and which processes are frozen. A promise holds only as long as its assumption does. A fault that breaks an assumption
on purpose must call `void`; the monitor then checks only the promises that do not need that assumption.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import trio

from metafora_trio import RunningTask, StopReason
from metafora_trio.events import Event, TaskStopped
from metafora_trio.testing.history import AFTER_THAW, EventName, EventOrder, HistoryEvent

from ._runs import Place, WatchedRun
from ._watchdog import LeaseWatchdog
from ._world import World

__all__ = ["BrokenPromise", "Monitor"]

_GRANTED = AFTER_THAW / 1e9


class BrokenPromise(AssertionError):
    """Something happened that the library promises will not happen."""


class Monitor:
    """Keeps a record of runs, and collects violations. Only `check` raises.

    Args:
        world: provides the time.
        owner: returns the owner of a task in the broker's state: session identity and token, or None.

    Attributes:
        events: all starts and stops, and everything else that is recorded for `check_history`.
        runs: the open runs, by task.
        started: (task, token) of every run.
        ended: (task, token) of every run that ended by itself.
        lost: the identities of sessions that stop or have stopped tasks because they were lost. One may still be open
            at the broker, and gives up each claim as its scope closes.
        sessions: how many sessions each node has had at the broker, by its name, as far as the broker reports them.
        violations: the violations found so far.
        changes: counts starts, stops and kills.
        rejected: how many writes with an old token the fenced store has refused.
        overruns: the runs whose scope was open more than 50 ms after the end of its lease. They include runs that
            break no promise because an assumption was broken.
    """

    def __init__(self, world: World, owner: Callable[[str], tuple[str, int] | None]) -> None:
        self.events: list[HistoryEvent] = []
        self.runs: defaultdict[str, list[WatchedRun]] = defaultdict(list)
        self.started: set[tuple[str, int]] = set()
        self.ended: set[tuple[str, int]] = set()
        self.lost: set[str] = set()
        self.sessions: Counter[str] = Counter()
        self.violations: list[str] = []
        self.changes: int = 0
        self.rejected: int = 0
        self.overruns: list[WatchedRun] = []
        self._world = world
        self._owner = owner
        self._watchdog = LeaseWatchdog(world, self._overran)
        self._order = EventOrder()
        self._void: set[str] = set()
        self._highest: dict[str, tuple[int, str]] = {}
        self._store: dict[str, int] = {}

    # ---- reported by the processes

    def start(self, task: str, node: str, token: int, place: Place) -> WatchedRun:
        """Record that a handler starts, and return its run."""
        run = WatchedRun(task, node, token, place, trio.Event())
        if place.dead:
            return run
        self.changes += 1
        self.started.add((task, token))
        self.record(EventName.START, run)
        others = self.runs[task]
        if self.counts(run):
            for other in filter(self.counts, others):
                self.violation(f"{run} starts while {other} still runs")
            owner = self._owner(task)
            if owner != (node, token):
                self.violation(f"{run} starts, but the owner is {owner}")
            highest, holder = self._highest.get(task, (-1, ""))
            if token < highest or (token == highest and node != holder):
                self.violation(f"{run} starts after token {highest} of {holder}")
        if token > self._highest.get(task, (-1, ""))[0]:
            self._highest[task] = token, node
        others.append(run)
        self.write(run)
        return run

    def watch_lease(self, run: WatchedRun, task: RunningTask) -> None:
        """Check that the scope of a run closes by the end of its lease."""
        self._watchdog.watch(run, task)

    def stop(self, run: WatchedRun, *, ended: bool) -> None:
        """Record that a handler stops; `ended` if it ended by itself."""
        if run.place.dead:
            return
        self.write(run)
        self.changes += 1
        run.ended = ended
        if ended:
            self.ended.add((run.task, run.token))
        self.runs[run.task].remove(run)
        self.record(EventName.STOP, run)

    def saw(self, event: Event, place: Place) -> None:
        """Check that an event of a consumer comes in a legal order."""
        if place.dead:
            return
        if problem := self._order.add(event):
            self.violation(f"out of order: {problem}")
        if isinstance(event, TaskStopped) and event.reason is StopReason.SESSION_LOST:
            self.lost.add(event.node)

    def write(self, run: WatchedRun) -> bool:
        """Write, as a run, to a store that refuses old tokens; return whether the store accepted it."""
        if run.place.dead:
            return False
        if run.token < self._store.get(run.task, -1):
            if self._owner(run.task) == (run.node, run.token):
                self.violation(f"{run} owns its task, but the store refused its token as an old one")
            self.rejected += 1
            return False
        self._store[run.task] = run.token
        return True

    def record(self, ev: EventName, run: WatchedRun) -> None:
        """Record an event of a run."""
        self.events.append(HistoryEvent(self._ns, ev, run.place.name, run.node, run.task, run.token))

    # ---- reported with a fault

    def freeze(self, place: Place) -> None:
        """Note that it is stopped."""
        self.events.append(HistoryEvent(self._ns, EventName.FREEZE, place.name))

    def thaw(self, place: Place, notices_within: float = 0.0) -> None:
        """Note that it goes on. The runs that were open before count again 50 ms after it must have noticed.

        Args:
            place: where they run.
            notices_within: the maximum number of seconds after which it must notice that it had stopped. A frozen
                process notices at once, by its clock; a machine that was suspended, at its next heartbeat.
        """
        granted = notices_within + _GRANTED
        for run in self.open_runs():
            if run.place is place:
                run.exempt_until = self._world.now + granted
        thaw = HistoryEvent(self._ns + round(notices_within * 1e9), EventName.THAW, place.name)
        if notices_within:
            # For `check_history`, which grants 50 ms to all, it goes on when it must have noticed.
            self._world.after(notices_within, self._record_thaw, place, thaw)
        else:
            self.events.append(thaw)
        self._world.after(granted + 1e-6, self._check_thawed, place)
        self._watchdog.thaw(place)

    def kill(self, place: Place) -> None:
        """Record that a place died, and its runs with it."""
        self.events.append(HistoryEvent(self._ns, EventName.KILL, place.name))
        self.changes += 1
        for runs in self.runs.values():
            runs[:] = [run for run in runs if run.place is not place]

    def void(self, name: str) -> None:
        """Exempt a session (by identity) or a process (by name) from the promises that need an assumption."""
        self._void.add(name)

    def is_void(self, name: str) -> bool:
        """Return whether this session or process is exempt."""
        return name in self._void

    # ---- reported by the broker and the clients

    def claim_gone(self, task: str, node: str, token: int) -> None:
        """Record that a claim was removed. Nothing may run under it any more."""
        for run in self.runs[task]:
            if (run.node, run.token) == (node, token) and self.counts(run):
                self.violation(f"{run} still runs, but its claim is gone")

    def counts(self, run: WatchedRun) -> bool:
        """Return whether the promises that need assumptions apply to a run at this moment."""
        place = run.place
        if place.frozen or place.dead or run.overran or self.is_void(run.node) or self.is_void(place.name):
            return False
        return self._world.now > run.exempt_until

    def client_saw(self, ev: EventName, task: str) -> None:
        """Record that a client's submit or delete of a task was acknowledged, or that the client saw its effect."""
        self.events.append(HistoryEvent(self._ns, ev, "client", task=task))

    def open_runs(self) -> list[WatchedRun]:
        """Return the open runs."""
        return [run for runs in self.runs.values() for run in runs]

    def violation(self, text: str) -> None:
        """Record a violation."""
        self.violations.append(f"at {self._world.now:.6f} s: {text}")

    def check(self) -> None:
        """Raise `BrokenPromise` if there was any violation."""
        if self.violations:
            raise BrokenPromise("\n".join(self.violations))

    # ----

    @property
    def _ns(self) -> int:
        return round(self._world.now * 1e9)

    def _overran(self, run: WatchedRun, seconds: float) -> None:
        self.overruns.append(run)
        if self.counts(run):
            self.violation(f"{run} is still open {seconds:.2f} s after the end of its lease")

    def _record_thaw(self, place: Place, thaw: HistoryEvent) -> None:
        if not (place.dead or place.frozen):  # it may have been stopped again since
            self.events.append(thaw)

    def _check_thawed(self, place: Place) -> None:
        """Check the runs of a thawed process, which count again now that the time granted to it is over."""
        for task, runs in self.runs.items():
            mine = [run for run in runs if run.place is place and self.counts(run)]
            others = [run for run in runs if run.place is not place and self.counts(run)]
            for run in mine:
                if others:
                    self.violation(f"{run} still runs after a thaw, and so does {others[0]}")
                elif (owner := self._owner(task)) != (run.node, run.token):
                    self.violation(f"{run} still runs after a thaw, but the owner is {owner}")
