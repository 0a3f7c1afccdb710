"""Replays a history of the simulated cluster: `python -m stress.simulate.replay FILE`.

A failing test prints such a file, and `python -m stress.simulate` saves one. Exit status: 1 if a promise is broken; 2
usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from metafora_trio.testing.history import EventName, HistoryEvent
from metafora_trio.testing.simulation import BrokenPromise, SimulatedCluster

from .machine import quiet
from .script import Script

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser("python -m stress.simulate.replay", description=__doc__)
    parser.add_argument("file", help="a script that a failure has printed or saved")
    parser.add_argument("--log", action="store_true", help="print the logs of the nodes, too")
    options = parser.parse_args(arguments)
    try:
        script = Script.read(options.file)
        opened = script.open()
    except OSError as error:
        parser.error(str(error))
    except ValueError as error:
        parser.error(f"{options.file}: {error}")
    with quiet(not options.log), opened as cluster:
        printer = _Printer(cluster)
        try:
            for step in script.steps:
                printer.print_step(step.do, *(f"{name}={value!r}" for name, value in step.args.items()))
                step.apply(cluster)
            printer.print_step("settle")
            cluster.settle()
        except BrokenPromise as broken:
            printer.print_events()
            print(f"broken: {broken}")
            return 1
        printer.print_events()
    print("every promise was kept")
    return 0


class _Printer:
    """Prints the steps, and after each step the events that it led to."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._printed = 0

    def print_step(self, *words: str) -> None:
        self.print_events()
        print(f"{self._cluster.world.now:10.4f}", *words)

    def print_events(self) -> None:
        events = self._cluster.monitor.events
        for event in events[self._printed :]:
            print(f"{event.t / 1e9:10.4f}   ", _in_words(event))
        self._printed = len(events)


def _in_words(event: HistoryEvent) -> str:
    if event.ev in (EventName.START, EventName.STOP):
        return f"{event.process} {event.ev}s {event.task} with token {event.token} as {event.node}"
    return f"{event.process} {event.ev} {event.task}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
