"""Machine: the state machine with which Hypothesis draws whole histories of a simulated cluster.

Most rules only draw the arguments of one step. The function that replays scripts also applies each step drawn here. A
rule is enabled only if its step would change something, because steps without effect make histories harder to shorten.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from metafora_trio.contract import MIN_SESSION_TIMEOUT
from metafora_trio.testing.simulation import BrokenPromise, SimulatedCluster, SimulatedNode

from .script import Script, Step
from .tally import Failure, Tally

__all__ = ["ACTS", "CHOICE", "LEAST_GRANTED", "MAX_NODES", "MAX_TASKS", "Machine", "one_of", "quiet"]

T = TypeVar("T")

MAX_NODES = 3
MAX_TASKS = 8
CHOICE = st.integers(0, 5)
LEAST_GRANTED = 2 / 3
"""The least share of its timeout that a server may grant to a session. With less, an answer that is lost breaks an
assumption: the session may then expire before the lease that its node still believes in."""
_CLEANUP = st.sampled_from([0.0, 0.0, 0.02, 0.3, 5.0])
"""Seconds that a task takes to end once it is cancelled. The end of its lease cuts them short."""
ACTS = ("submit", "submit", "submit_again", "delete", "stop_task", "stop_task", "finish", "freeze", "drain")
_RATES = st.sampled_from([1.0, 1.0, 1.0, 1.0009, 0.9991, 1.02, 0.98])
_OPTIONS: st.SearchStrategy[Mapping[str, float]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "grace": st.sampled_from([0.1, 0.5]),
            "capacity": st.sampled_from([2, 4, MAX_TASKS]),
            "refusals": st.sampled_from([1, 3]),
            "fails_after": st.sampled_from([0, 3, 10]),
        },
    ),
)
"""The settings that differ from node to node."""
_NOT_HEALED = {
    *("crash", "pause", "suspend", "lose_reply", "expire", "elect", "drift", "linger"),
    *("remove_node", "stall_connect", "start_sequences", "limit_timeout"),
}
"""Faults that `heal` does not end."""


class Machine(RuleBasedStateMachine):
    """Draws the steps that are possible with any broker.

    Attributes:
        tally: the totals of all histories of the class. A subclass has its own.
        broker: the name, in `BROKERS`, of the cluster's broker.
    """

    tally = Tally()
    broker: str

    def __init__(self) -> None:
        super().__init__()
        self.script: Script
        self.cluster: SimulatedCluster
        self.tasks: list[str] = []
        self.failed = False

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        session_timeout=st.sampled_from([3.0, 4.0, 6.0]),
        nodes=st.lists(_OPTIONS, min_size=1, max_size=MAX_NODES),
        tasks=st.integers(0, 5),
        cleanup=_CLEANUP,
        slow=st.sampled_from([0.0, 0.0, 0.0, 0.2, 0.6]),
        warm=st.sampled_from([0.0, 2.5, 6.0]),
        first_number=st.sampled_from([0, 0, 250, 2**31 - 5000]),
        longest=st.sampled_from([(), (), (LEAST_GRANTED,), (0.8, LEAST_GRANTED), (0.5,) * 3]),
        refused=st.sampled_from([False] * 7 + [True]),
    )
    def begin(
        self,
        seed: int,
        session_timeout: float,
        nodes: Sequence[Mapping[str, float]],
        tasks: int,
        cleanup: float,
        slow: float,
        warm: float,
        first_number: int,
        longest: Sequence[float],
        refused: bool,
    ) -> None:
        self.script = Script(seed, session_timeout, (), self.broker)
        self.cluster = self.script.open()
        if first_number and self.offers("start_sequences"):
            self.do("start_sequences", number=first_number)
        if self.offers("limit_timeout"):
            for server, share in enumerate(longest, 1):
                longest_timeout = max(MIN_SESSION_TIMEOUT, share * session_timeout)
                self.do("limit_timeout", server=server, longest=longest_timeout)
        for options in nodes:
            self.do("start", **options)
        if tasks:
            self.do("run_for", seconds=0.5)
            self.submit(tasks, cleanup)
        if slow and self.offers("delay"):
            self.do("run_for", seconds=0.5)
            self.do("delay", node="n1", seconds=slow)
        if warm:
            self.do("run_for", seconds=warm)
        if refused and self.running() and self.offers("refuse"):
            # Before anything else could be a reason for a node to leave.
            self.do("refuse", task=self.running()[0], what="ending")
            self.do("finish", task=self.running()[0])
            self.do("run_for", seconds=0.5)

    def do(self, do: str, **args: Any) -> None:
        step = Step(do, args)
        self.script = replace(self.script, steps=(*self.script.steps, step))
        with self._noting():
            step.apply(self.cluster)

    @contextlib.contextmanager
    def _noting(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            self.failed = True
            error.add_note(f"the history, for `python -m stress.simulate.replay FILE`:\n{self.script.encode()}")
            self.tally.failure = Failure(
                self.script, f"{type(error).__name__}: {error}", isinstance(error, BrokenPromise)
            )
            raise

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        try:
            if not self.failed:
                with self._noting():
                    self.cluster.settle()
        finally:
            self.tally.add(self.cluster, len(self.script.steps))
            self.cluster.close()

    # ---- queries

    def offers(self, *faults: str) -> bool:
        """Return whether the broker offers all these faults."""
        return self.cluster.broker.faults.keys() >= {*faults}

    def live(self, *, frozen: bool | None = False) -> list[SimulatedNode]:
        """Return the running nodes that are not frozen; if `frozen`, those that are; if None, both."""
        nodes = self.cluster.nodes.values()
        return [node for node in nodes if node.running and frozen in (None, node.frozen)]

    def pick(self, choice: int, *, frozen: bool | None = False) -> str:
        return one_of(self.live(frozen=frozen), choice).name

    def running(self) -> list[str]:
        return sorted({run.task for run in self.cluster.monitor.open_runs()})

    # ---- time

    @rule(seconds=st.sampled_from([0.001, 0.003, 0.01, 0.05, 0.2, 0.5]))
    def a_moment_passes(self, seconds: float) -> None:
        self.do("run_for", seconds=seconds)

    @rule(seconds=st.sampled_from([1.0, 1.6, 2.2, 3.3]))
    def time_passes(self, seconds: float) -> None:
        self.do("run_for", seconds=seconds)

    @rule(timeouts=st.sampled_from([0.5, 0.7, 1.0, 1.5, 3.5]))
    def session_timeouts_pass(self, timeouts: float) -> None:
        self.do("run_for", seconds=timeouts * self.script.session_timeout)

    # ---- nodes

    @precondition(lambda self: len(self.live(frozen=None)) < MAX_NODES)
    @rule(rate=_RATES, options=_OPTIONS)
    def start(self, rate: float, options: Mapping[str, float]) -> None:
        own_clock = rate != 1.0 and self.offers("pause")  # then each node has a process of its own
        self.do("start", **options, **({"rate": rate} if own_clock else {}))

    @precondition(lambda self: self.live())
    @rule(choice=CHOICE)
    def cancel(self, choice: int) -> None:
        self.do("cancel", node=self.pick(choice))

    @precondition(lambda self: self.offers("crash") and self.live(frozen=None))
    @rule(choice=CHOICE)
    def crash(self, choice: int) -> None:
        self.do("crash", node=self.pick(choice, frozen=None))

    @precondition(lambda self: not all(node.leaving for node in self.live()))
    @rule(choice=CHOICE, command=st.booleans())
    def drain(self, choice: int, command: bool) -> None:
        node = one_of([node.name for node in self.live() if not node.leaving], choice)
        if command:
            self.do("send", node=node, command="drain")
        else:
            self.do("drain", node=node)

    @precondition(lambda self: self.live())
    @rule(choice=CHOICE, command=st.sampled_from(["freeze", "unfreeze", "balance"]))
    def send(self, choice: int, command: str) -> None:
        self.do("send", node=self.pick(choice), command=command)

    # ---- nodes with processes of their own

    @precondition(lambda self: self.offers("pause") and self.live())
    @rule(choice=CHOICE, timeouts=st.sampled_from([0.02, 0.3, 0.45, 0.6, 1.1, 2.0]))
    def pause(self, choice: int, timeouts: float) -> None:
        self.do("pause", node=self.pick(choice), seconds=timeouts * self.script.session_timeout)

    @precondition(lambda self: self.offers("pause") and self.live())
    @rule(choice=CHOICE)
    def stop(self, choice: int) -> None:
        self.do("pause", node=self.pick(choice))

    @precondition(lambda self: self.offers("suspend") and self.live())
    @rule(choice=CHOICE, timeouts=st.sampled_from([0.02, 0.3, 0.6, 1.1, 2.0]))
    def suspend(self, choice: int, timeouts: float) -> None:
        self.do("suspend", node=self.pick(choice), seconds=timeouts * self.script.session_timeout)

    @precondition(lambda self: self.offers("pause") and self.live(frozen=True))
    @rule(choice=CHOICE)
    def resume(self, choice: int) -> None:
        self.do("resume", node=self.pick(choice, frozen=True))

    # ---- links

    @precondition(lambda self: self.live(frozen=None) and self.cluster.fault_counts.keys() & {"partition", "delay"})
    @rule(choice=CHOICE)
    def heal_node(self, choice: int) -> None:
        self.do("heal", node=self.pick(choice, frozen=None))

    @precondition(lambda self: self.cluster.fault_counts.keys() - _NOT_HEALED)
    @rule()
    def heal(self) -> None:
        self.do("heal")

    @precondition(lambda self: self.offers("partition") and self.live(frozen=None))
    @rule(choice=CHOICE)
    def partition(self, choice: int) -> None:
        self.do("partition", node=self.pick(choice, frozen=None))

    @precondition(lambda self: self.offers("delay") and self.live(frozen=None))
    @rule(choice=CHOICE, seconds=st.sampled_from([0.02, 0.2, 0.6, 1.0]))
    def delay(self, choice: int, seconds: float) -> None:
        self.do("delay", node=self.pick(choice, frozen=None), seconds=seconds)

    @precondition(lambda self: self.offers("lose_reply") and self.live())
    @rule(choice=CHOICE)
    def lose_reply(self, choice: int) -> None:
        self.do("lose_reply", node=self.pick(choice))

    @precondition(lambda self: self.offers("expire") and self.live(frozen=None))
    @rule(choice=CHOICE)
    def expire(self, choice: int) -> None:
        self.do("expire", node=self.pick(choice, frozen=None))

    # ---- tasks

    @precondition(lambda self: len(self.tasks) < MAX_TASKS)
    @rule(count=st.integers(1, 3), cleanup=_CLEANUP)
    def submit(self, count: int, cleanup: float) -> None:
        for _ in range(count):
            self.tasks.append(f"t{len(self.tasks) + 1}")
            self.do("submit", task=self.tasks[-1])
            if cleanup:
                self.do("linger", task=self.tasks[-1], seconds=cleanup)

    @precondition(lambda self: self.tasks)
    @rule(choice=CHOICE)
    def submit_again(self, choice: int) -> None:
        self.do("submit", task=one_of(self.tasks, choice), again=True)

    @precondition(lambda self: self.tasks)
    @rule(choice=CHOICE)
    def delete(self, choice: int) -> None:
        self.do("delete", task=one_of(self.tasks, choice))

    @precondition(lambda self: self.running())
    @rule(choice=CHOICE)
    def stop_task(self, choice: int) -> None:
        self.do("stop_task", task=one_of(self.running(), choice))

    @precondition(lambda self: self.running())
    @rule(choice=CHOICE, fail=st.booleans())
    def finish(self, choice: int, fail: bool) -> None:
        self.do("finish", task=one_of(self.running(), choice), **({"fail": True} if fail else {}))

    @precondition(lambda self: self.tasks)
    @rule(choice=CHOICE, seconds=st.sampled_from([0.02, 0.2, 1.0, 5.0]), shield=st.booleans())
    def linger(self, choice: int, seconds: float, shield: bool) -> None:
        self.do("linger", task=one_of(self.tasks, choice), seconds=seconds, **({"shield": True} if shield else {}))

    # ---- for rules that take several steps

    def calm_down(self) -> None:
        """End other disturbances, which would hide the race that follows."""
        self.do("heal")
        self.do("run_for", seconds=2.2)

    def linger_all(self, seconds: float) -> None:
        """Make every running task take this long to end."""
        for task in self.running():
            self.do("linger", task=task, seconds=seconds)

    def act(self, act: str, choice: int) -> None:
        """Do one of `ACTS`, if there is anything to do it to."""
        match act:
            case "submit" if len(self.tasks) < MAX_TASKS:
                self.submit(1, 0.0)
            case "submit_again" if self.tasks:
                self.submit_again(choice)
            case "delete" if self.tasks:
                self.delete(choice)
            case "stop_task" if self.running():
                self.stop_task(choice)
            case "finish" if self.running():
                self.finish(choice, fail=False)
            case "freeze" if self.live():
                self.send(choice, "freeze")
            case "drain" if any(not node.leaving for node in self.live()):
                self.drain(choice, command=True)
            case _:
                return


def one_of(things: Sequence[T], choice: int) -> T:
    return things[choice % len(things)]


@contextlib.contextmanager
def quiet(on: bool = True) -> Generator[None]:
    """Disable logging while the body runs, because thousands of lost sessions are expected here."""
    logging.disable(logging.CRITICAL if on else logging.NOTSET)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
