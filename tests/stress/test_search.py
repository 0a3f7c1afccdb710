"""The search for broken promises: scripts, the state machine that draws them, and the commands around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from metafora_trio._node.executor import Executor
from metafora_trio._node.situation import Situation
from metafora_trio.testing.simulation import BrokenPromise, BrokerFactory, Fault, MemoryBroker, SimulationContext
from metafora_trio_zookeeper.testing.simulated import ZooKeeperBroker
from stress.mutants import command as mutants
from stress.mutants.all_mutants import MUTANTS
from stress.simulate import command as simulate
from stress.simulate import replay
from stress.simulate.brokers import BROKERS
from stress.simulate.machine import quiet
from stress.simulate.script import Script, Step, play, shorten
from stress.simulate.search import search
from stress.simulate.tally import Tally
from tests.support.processes import children, ignores, wait_ended, wait_until

SCRIPT = Script(
    7,
    4.0,
    (
        Step("start"),
        Step("start"),
        Step("run_for", {"seconds": 3.0}),
        Step("submit", {"task": "t1"}),
        Step("run_for", {"seconds": 2.0}),
        Step("crash", {"node": "n2"}),
        Step("pause", {"node": "n2"}),
        Step("partition", {"node": "n1", "way": "from"}),
        Step("run_for", {"seconds": 3.0}),
    ),
)


@contextmanager
def every_node_drains() -> Iterator[None]:
    """A bug that a single step reveals: every node believes that it is draining."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Situation, "draining", property(lambda self: True))
        yield


# ---- scripts


def test_a_script_is_json_and_comes_back() -> None:
    text = SCRIPT.encode()
    assert Script.decode(text) == SCRIPT
    assert json.loads(text)["steps"][6] == {"do": "pause", "node": "n2"}


@pytest.mark.parametrize(
    "text", ["{}", "[]", "nonsense", '{"seed": 1, "session_timeout": 4, "steps": [], "broker": "unheard-of"}']
)
def test_text_that_is_no_script_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a script|Expecting value"):
        Script.decode(text)


@pytest.mark.parametrize("broker, step", [("zookeeper", "close"), ("memory", "pause")])
def test_a_step_that_does_not_exist_is_refused(broker: str, step: str) -> None:
    """It is refused before anything is played. Each broker has its own faults, and a step is no method's name."""
    script = Script(1, 4.0, (Step("start"), Step(step, {"node": "n1"})), broker)
    with pytest.raises(ValueError, match=f"no step '{step}' with the broker '{broker}': run_for, start, "):
        script.open()


def test_the_same_script_makes_the_same_history() -> None:
    with quiet():
        first, second = play(SCRIPT), play(SCRIPT)
    assert first == second
    assert first.runs >= 1
    assert first.faults == {"crash": 1, "partition": 1}  # a node that does not run cannot be paused
    assert first.seconds > 8.0


def test_a_script_is_shortened_to_the_steps_that_it_needs() -> None:
    with quiet(), every_node_drains():
        short = shorten(SCRIPT)
        assert [step.do for step in short.steps] == ["submit"]  # nobody runs it
        with pytest.raises(BrokenPromise):
            play(short)


# ---- the state machine


def test_totals_are_added_up() -> None:
    """They include overruns, which are rare, because most leases are renewed and most scopes close in time."""
    steps = (
        Step("start"),
        Step("run_for", {"seconds": 3.0}),
        Step("submit", {"task": "t1"}),
        Step("linger", {"task": "t1", "seconds": 20.0, "shield": True}),
        Step("run_for", {"seconds": 1.0}),
        Step("partition", {"node": "n1"}),
        Step("run_for", {"seconds": 10.0}),
    )
    once, twice = Tally(), Tally()
    with quiet(), replace(SCRIPT, steps=steps).open() as cluster:
        for step in steps:
            step.apply(cluster)
        once.add(cluster, len(steps))
    twice.merge(once)
    twice.merge(once)
    assert (twice.histories, twice.steps, twice.seconds, twice.overruns) == (2, 14, 28.0, 2)
    assert twice.faults == {"linger": 2, "partition": 2}
    assert twice.assumptions["linger"].startswith("scopes close by the end of the lease")


@pytest.mark.parametrize("broker", BROKERS)
def test_no_promise_is_broken(broker: str) -> None:
    """A bounded set of histories, the same each time; `python -m stress.simulate` draws more."""
    tally = search(seed=26, histories=60, broker=broker)
    assert tally.failure is None, f"{tally.failure.problem}\n{tally.failure.script.encode()}"
    assert tally.histories >= 60
    without_own_clocks = {"drift"} if broker == "memory" else set()
    assert tally.faults.keys() == tally.assumptions.keys() - without_own_clocks  # each fault is drawn


class Bare:
    """A broker that has everything the protocol requires, but no faults."""

    faults: Mapping[str, Fault] = {}
    remedies: Mapping[str, Callable[..., None]] = {}

    def __init__(self, context: SimulationContext) -> None:
        inner = MemoryBroker(context)
        self.expiry_delay, self.coordinator, self.spawn = inner.expiry_delay, inner.coordinator, inner.spawn
        self.owner, self.contents, self.observe = inner.owner, inner.contents, inner.observe
        self.heal, self.recover = inner.heal, inner.recover


@pytest.mark.parametrize(
    "broker, faults", [(Bare, {"linger"}), (ZooKeeperBroker, {"pause", "drift", "delay", "crash"})]
)
def test_a_third_broker_needs_nothing_but_the_protocol(
    broker: BrokerFactory, faults: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches draw from the faults that it offers, whatever its name. Only ZooKeeper gets faults of servers."""
    monkeypatch.setitem(BROKERS, "third", broker)
    tally = search(seed=5, histories=60, broker="third")
    assert tally.failure is None
    assert tally.faults.keys() >= faults
    assert tally.faults.keys() & {"kill_server", "elect"} == set()


def test_the_same_seed_draws_the_same_histories() -> None:
    assert search(seed=3, histories=5) == search(seed=3, histories=5)


def test_a_broken_promise_is_found_and_shortened() -> None:
    with every_node_drains():
        tally = search(seed=1, histories=20)
    assert tally.failure is not None
    assert tally.failure.broken
    assert len(tally.failure.script.steps) <= 2


# ---- the commands


def test_simulate(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--histories", "4", "--seed", "1", "--processes", "1", "--json"]
    assert simulate.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ["histories", "steps", "virtual_hours", "faults", "overruns", "violations", "per_second", "seed"]
    assert list(summary) == names
    assert (summary["violations"], summary["seed"]) == (0, 1)
    assert summary["histories"] >= 4  # Hypothesis does not count a history for which it runs out of choices


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("module, arguments", [("simulate", ["--minutes", "9"]), ("mutants", ["--histories", "9999"])])
def test_ctrl_c_ends_a_search(module: str, arguments: list[str], whole_group: bool) -> None:
    """The results so far are printed, without a traceback, and no process is left. A terminal signals workers, too."""
    command = [sys.executable, "-u", "-m", f"stress.{module}", *arguments, "--processes", "1", "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        workers: list[int] = []

        def at_work() -> bool:
            """Return whether the worker that searches, and multiprocessing's own process, have started."""
            workers[:] = children(process.pid)
            return len(workers) == 2 and all(ignores(worker, signal.SIGINT) for worker in workers)

        wait_until(at_work)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.endswith(b"interrupted\n")
    assert b"histories" in out
    wait_ended(workers)


@pytest.mark.parametrize(
    "main, arguments, message",
    [
        (simulate.main, ["--histories", "0"], "0 is less than 1"),
        (simulate.main, ["--minutes", "0"], "--minutes: 0 is not more than 0"),
        (simulate.main, ["--save", "no/such/folder"], "--save: no folder no/such/folder"),
        (mutants.main, ["--processes", "0"], "0 is less than 1"),
        (mutants.main, ["--save", "no/such/folder"], "--save: no folder no/such/folder"),
        (mutants.main, ["unheard-of"], "no mutant unheard-of"),
        (mutants.main, ["read-is-proof-of-life", "--broker", "memory"], "no mutant read-is-proof-of-life with"),
        (replay.main, ["no/such/file"], "No such file or directory: 'no/such/file'"),
        (replay.main, [__file__], "test_search.py: Extra data"),
    ],
)
def test_usage(
    main: Callable[[list[str]], int], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument is reported before anything is searched, with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "script.json"
    file.write_text(SCRIPT.encode())
    assert replay.main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "crash node='n2'" in out
    assert "starts t1 with token 0" in out
    assert out.endswith("every promise was kept\n")
    with every_node_drains():
        assert replay.main([str(file)]) == 1
    assert "broken: at " in capsys.readouterr().out


@pytest.mark.parametrize("broker", BROKERS)
def test_mutants(broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mutants of the node need no more of a broker than the protocol."""
    name = "claimed-is-owned"
    assert name in map(str, MUTANTS)
    arguments = [name, "--broker", broker, "--histories", "100", "--processes", "1", "--save", str(tmp_path), "--json"]
    assert mutants.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["escaped"] == []
    script = Script.read(tmp_path / f"{name}.json")
    assert script.steps
    assert script.broker == broker


def test_a_bug_of_the_library_is_no_catch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A promise that is broken without the mutant, too, is reported as such, and the mutant is not caught."""
    with every_node_drains():
        catch = mutants.hunt("read-is-proof-of-life", 1, 25)
    assert catch.genuine
    assert not catch.caught
    monkeypatch.setattr(mutants, "open_pool", lambda processes: ThreadPoolExecutor(1))
    monkeypatch.setattr(mutants, "hunt", lambda *_: catch)
    assert mutants.main(["read-is-proof-of-life"]) == 1
    assert f"A BUG OF THE LIBRARY, not of the mutant:\n{catch.script}" in capsys.readouterr().out


def test_a_crash_is_no_catch() -> None:
    """A mutant that cannot run breaks no promise."""

    def nonsense(self: Executor) -> None:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Executor, "look_at_everything", nonsense)
        assert not mutants.hunt("read-is-proof-of-life", 1, 3).caught
