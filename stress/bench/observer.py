"""Observer: reads which tasks run from the nodes' histories while they are written, and checks them at the end.

It asks neither the cluster nor the library. So it does not disturb them, and does not depend on their being right.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from metafora_trio.testing.history import EventName, HistoryEvent, Verdict, check_history

__all__ = ["Observer"]

_PERIOD = 0.02


class Observer:
    """Follows the histories in one folder, one file `<process>.jsonl` for each process.

    Attributes:
        events: all events so far.
        running: the tasks that each process runs now.
    """

    def __init__(self, folder: Path) -> None:
        self.events: list[HistoryEvent] = []
        self.running: defaultdict[str, set[str]] = defaultdict(set)
        self._folder = folder
        self._read: defaultdict[Path, int] = defaultdict(int)

    @property
    def last(self) -> int:
        """The time of the last start or stop, in nanoseconds of CLOCK_MONOTONIC."""
        return max(event.t for event in self.events if event.ev in (EventName.START, EventName.STOP))

    def note(self, ev: EventName, *, task: str = "", process: str = "") -> int:
        """Add an event for an action of the benchmark itself. Return its time."""
        event = HistoryEvent(time.monotonic_ns(), ev, process, "", task)
        self.events.append(event)
        if ev is EventName.KILL:
            self.running.pop(process, None)
        return event.t

    def submitted(self, tasks: Iterable[str]) -> None:
        """Note that these tasks were submitted, and must run."""
        for task in tasks:
            self.note(EventName.SUBMIT, task=task)

    def look(self) -> bool:
        """Read new events. Return whether there were any."""
        before = len(self.events)
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read[path])
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[path] += len(whole) + len(newline)
            for line in whole.splitlines():
                record = json.loads(line)
                self._add(HistoryEvent(**{**record, "ev": EventName(record["ev"])}))
        return len(self.events) > before

    def _add(self, event: HistoryEvent) -> None:
        self.events.append(event)
        if event.ev is EventName.START:
            self.running[event.process].add(event.task)
        else:
            self.running[event.process].discard(event.task)

    async def wait(self, condition: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Wait until a condition holds, reading new events before each check.

        Raises:
            trio.TooSlowError: it did not hold within `timeout` seconds. The message includes `what`.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(timeout):
            while True:
                self.look()
                if condition():
                    return
                await trio.sleep(_PERIOD)
        loads = {process: len(tasks) for process, tasks in self.running.items()}
        raise trio.TooSlowError(f"not within {timeout:g} s: {what}; running tasks by process: {loads}")

    async def wait_quiet(self, seconds: float, *, timeout: float) -> None:
        """Wait until no handler has started or stopped for some seconds, or until `timeout` seconds have passed."""
        with trio.move_on_after(timeout):
            with trio.CancelScope(deadline=trio.current_time() + seconds) as quiet:
                while True:
                    await trio.sleep(_PERIOD)
                    if self.look():
                        quiet.deadline = trio.current_time() + seconds

    # ---- figures

    @property
    def total(self) -> int:
        """The number of tasks that run now."""
        return sum(map(len, self.running.values()))

    def spread(self, processes: Iterable[str]) -> int:
        """Return the largest minus the smallest load of some processes."""
        loads = [len(self.running[process]) for process in processes]
        return max(loads) - min(loads)

    def starts_since(self, t: int) -> list[int]:
        """Return the times after `t` at which handlers started, ascending."""
        return sorted(event.t for event in self.events if event.ev is EventName.START and event.t > t)

    def gaps_since(self, t: int) -> list[float]:
        """Return, for each start after `t` of a task that ran before, the seconds since its last stop, ascending."""
        stopped: dict[str, int] = {}
        gaps = []
        for event in sorted(self.events, key=lambda event: event.t):
            if event.ev is EventName.STOP:
                stopped[event.task] = event.t
            elif event.ev is EventName.START and event.t > t and event.task in stopped:
                gaps.append((event.t - stopped[event.task]) / 1e9)
        return sorted(gaps)

    def verdict(self) -> Verdict:
        """End the observation, and check the whole history."""
        self.look()
        self.note(EventName.END)
        return check_history(self.events)
