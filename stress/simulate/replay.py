"""Plays a history of the simulated cluster again: `python -m stress.simulate.replay FILE`.

A failing test or `python -m stress.simulate` has written the file. Exit status: 1 if a promise is broken; 2 usage.
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
    """Returns the exit status."""
    parser = argparse.ArgumentParser("python -m stress.simulate.replay", description=__doc__)
    parser.add_argument("file", help="a script, as a failure has printed or saved it")
    parser.add_argument("--log", action="store_true", help="let the nodes log, too")
    options = parser.parse_args(arguments)
    try:
        script = Script.read(options.file)
        opened = script.open()
    except OSError as error:
        parser.error(str(error))
    except ValueError as error:
        parser.error(f"{options.file}: {error}")
    with quiet(not options.log), opened as cluster:
        teller = _Teller(cluster)
        try:
            for step in script.steps:
                teller.tell(step.do, *(f"{name}={value!r}" for name, value in step.args.items()))
                step.apply(cluster)
            teller.tell("settle")
            cluster.settle()
        except BrokenPromise as broken:
            teller.tell_events()
            print(f"broken: {broken}")
            return 1
        teller.tell_events()
    print("every promise was kept")
    return 0


class _Teller:
    """Prints the steps, and between them what came of them."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._told = 0

    def tell(self, *words: str) -> None:
        self.tell_events()
        print(f"{self._cluster.world.now:10.4f}", *words)

    def tell_events(self) -> None:
        events = self._cluster.monitor.events
        for event in events[self._told :]:
            print(f"{event.t / 1e9:10.4f}   ", _in_words(event))
        self._told = len(events)


def _in_words(event: HistoryEvent) -> str:
    if event.ev in (EventName.START, EventName.STOP):
        return f"{event.process} {event.ev}s {event.task} with token {event.token} as {event.node}"
    return f"{event.process} {event.ev} {event.task}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
