"""One chaos run: starts the cluster, injects the faults, heals, waits, and leaves the evidence in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

from metafora_trio import Task, open_client
from metafora_trio.contract import open_service_nursery
from metafora_trio.testing.history import EventName, History, HistoryEvent
from metafora_trio_zookeeper import ZooKeeperCoordinator

from .check import settle_limit, settled_now, standing
from .cluster import ChaosCluster, Terms, open_chaos_cluster
from .evidence import Evidence
from .faults import schedule
from .nemesis import Nemesis
from .records import read_records
from .store import read_rows
from .traffic import Traffic

__all__ = ["Outline", "Say", "read_evidence", "run_chaos"]

Say = Callable[[str], None]

_START = 60.0
"""Seconds within which all tasks must run at the beginning."""
_QUIET = 3.0
"""Seconds for which all tasks must keep running, evenly spread, at the end."""


@dataclass(slots=True)
class Outline:
    """The facts about a run that its events do not show.

    Times are CLOCK_MONOTONIC in nanoseconds, or None if the run did not get so far.

    Attributes:
        terms: the options of the run.
        begin: when the faults began.
        healed: when everything was healed.
        end: when the observation ended.
        complete: True if the run reached its end; False if it was interrupted, or failed.
        surprises: unplanned events, such as a node that ended by itself.
    """

    terms: Terms
    begin: int | None = None
    healed: int | None = None
    end: int | None = None
    complete: bool = False
    surprises: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        (folder / "run.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Outline:
        """Read the outline of the run in a folder.

        Raises:
            FileNotFoundError: the folder has no outline of a run.
        """
        kept = json.loads((folder / "run.json").read_text())
        return cls(**{**kept, "terms": Terms(**kept["terms"])})


def read_evidence(folder: Path) -> tuple[Outline, Evidence]:
    """Read all that a run has left in its folder."""
    outline = Outline.read(folder)
    terms = outline.terms
    evidence = Evidence(
        events=_read_events(folder),
        faults=read_records(folder / "faults.jsonl"),
        rows=read_rows(folder / "store.db"),
        session_timeout=terms.session_timeout,
        healed=outline.healed,
        complete=outline.complete,
        surprises=outline.surprises,
        nodes=_names(terms),
    )
    return outline, evidence


def _read_events(folder: Path) -> list[HistoryEvent]:
    return sorted(History.read(folder.glob("history/*.jsonl")), key=lambda event: event.t)


def _names(terms: Terms) -> list[str]:
    return [f"n{number}" for number in range(1, terms.nodes + 1)]


async def run_chaos(terms: Terms, folder: Path, say: Say) -> None:
    """Run a chaos run, and leave the evidence in a folder, even if the run is cancelled or fails.

    Raises:
        ZooKeeperNotInstalled: the message says what to install.
        trio.TooSlowError: not all tasks ran at the beginning.
        Exception: any other error. It is recorded as a surprise, too.
    """
    outline = Outline(terms)
    outline.write(folder)
    try:
        async with open_chaos_cluster(terms, folder) as cluster:
            outline.surprises = cluster.surprises
            say(f"{terms.servers} servers at {cluster.ensemble.hosts}, {terms.nodes} nodes")
            try:
                await _run(cluster, outline, say)
                outline.complete = True
            finally:
                cluster.history.record(EventName.END)
                outline.end = time.monotonic_ns()
                outline.write(folder)
    except Exception as error:
        outline.surprises.append(f"the run has failed: {type(error).__name__}: {error}")
        outline.write(folder)
        raise


async def _run(cluster: ChaosCluster, outline: Outline, say: Say) -> None:
    terms = cluster.terms
    coordinator = ZooKeeperCoordinator(cluster.ensemble.hosts, session_timeout=terms.session_timeout)
    async with open_client(coordinator) as client, open_service_nursery() as nursery:
        burst = max(4, terms.tasks // 10)
        traffic = Traffic(client, cluster.history, burst=burst, surprises=cluster.surprises)
        await traffic.submit([Task(f"task-{number}") for number in range(1, terms.tasks + 1)])
        if not await _wait_settled(cluster, traffic, _START):
            raise trio.TooSlowError(f"not all of {terms.tasks} tasks run after {_START:g} s")
        outline.begin = time.monotonic_ns()
        say(f"all {terms.tasks} tasks run; the faults begin")
        nursery.start_soon(traffic.follow_ends)
        faults = schedule(
            seed=terms.seed,
            seconds=terms.seconds,
            nodes=terms.nodes,
            servers=terms.servers,
            session_timeout=terms.session_timeout,
            loss=terms.links == "namespaces",
            poison=terms.poison,
        )
        await Nemesis(cluster, traffic, say).run(faults)
        await cluster.heal()
        outline.healed = time.monotonic_ns()
        try:
            if await traffic.unfreeze_all():
                outline.healed = time.monotonic_ns()
        except trio.TooSlowError:
            cluster.surprises.append("20 s after the heal it was still unknown whether a node was frozen by command")
        outline.write(cluster.folder)
        limit = settle_limit(terms.session_timeout)
        say(f"all faults are healed; waiting up to {limit:g} s until all tasks run, evenly spread")
        settled = await _wait_settled(cluster, traffic, limit + 2 * _QUIET)
        say("all tasks run, evenly spread" if settled else "not all tasks run, evenly spread")
        await traffic.look_for_ends()


async def _wait_settled(cluster: ChaosCluster, traffic: Traffic, timeout: float) -> bool:
    """Wait until all tasks have run, evenly spread, for a while. Return whether they did within `timeout` seconds."""
    quiet = 0.0
    nodes = _names(cluster.terms)
    with trio.move_on_after(timeout):
        while quiet < _QUIET:
            await trio.sleep(0.5)
            running = standing(await trio.to_thread.run_sync(_read_events, cluster.folder))
            quiet = quiet + 0.5 if settled_now(running, set(traffic.lasting), nodes) else 0.0
        return True
    return False
