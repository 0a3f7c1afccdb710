"""RaceMachine: adds races, which are rare by chance, because their steps must come within moments of each other."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from .machine import ACTS, CHOICE, MAX_NODES, MAX_TASKS, Machine

__all__ = ["RaceMachine"]

_GAPS = (0.0, 0.002, 0.01, 0.05, 0.2, 0.35, 0.5, 0.85)


class RaceMachine(Machine):
    """Draws whole races, in which several steps come within moments of each other, besides single steps."""

    @rule(
        acts=st.lists(st.tuples(st.sampled_from(ACTS), CHOICE, st.sampled_from(_GAPS)), min_size=2, max_size=6),
        slow=st.sampled_from([0.0, 0.0, 0.2, 0.6]),
        choice=CHOICE,
    )
    def much_at_once(self, acts: list[tuple[str, int, float]], slow: float, choice: int) -> None:
        if slow and self.offers("delay"):
            self.calm_down()
            if self.live(frozen=None):
                self.do("delay", node=self.pick(choice, frozen=None), seconds=slow)
        for act, which, gap in acts:
            self.act(act, which)
            if gap:
                self.do("run_for", seconds=gap)

    @precondition(lambda self: len(self.live(frozen=None)) < MAX_NODES and self.live())
    @rule(
        slow=st.sampled_from(["no node", "the new node", "the new node", "an owner"]),
        cleanup=st.sampled_from([0.0, 0.2, 1.0, 1.0]),
        later=st.sampled_from([1.2, 1.45, 1.49, 1.504, 1.51, 1.6, 1.8, 1.95, 2.05, 2.15, 2.25, 2.4, 2.65, 3.0]),
        act=st.sampled_from(["freeze the new node"] * len(ACTS) + list(ACTS)),
        choice=CHOICE,
    )
    def join_and_act(self, slow: str, cleanup: float, later: float, act: str, choice: int) -> None:
        """Disturb a new node when it has settled, after 1.5 s, and bids, so that tasks begin to move."""
        self.calm_down()
        if not self.live():
            return
        if cleanup:
            self.linger_all(cleanup)
        owner = self.pick(choice)
        self.do("start")
        joining = f"n{len(self.cluster.nodes)}"
        self.do("run_for", seconds=0.5)
        if slow != "no node" and self.offers("delay"):
            self.do("delay", node=joining if slow == "the new node" else owner, seconds=0.2)
        self.do("run_for", seconds=later - 0.5)
        if act == "freeze the new node":
            self.do("send", node=joining, command="freeze")
        else:
            self.act(act, choice)

    @precondition(lambda self: self.offers("delay") and self.live() and len(self.tasks) <= MAX_TASKS - 2)
    @rule(
        choice=CHOICE,
        slow=st.sampled_from([0.2, 0.3, 0.6]),
        pause=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9, 1.2]),
        acts=st.lists(
            st.tuples(st.sampled_from(["stop_task", "finish"]), st.sampled_from([0.05, 0.2, 0.35, 0.5])),
            min_size=2,
            max_size=3,
        ),
    )
    def contest(self, choice: int, slow: float, pause: float, acts: list[tuple[str, float]]) -> None:
        """Delay a node so that two nodes claim the same task; the winner gives it up at once."""
        self.calm_down()
        if not self.live():
            return
        self.do("delay", node=self.pick(choice), seconds=slow)
        before = len(self.tasks)
        for _, gap in acts:
            self.submit(1, 0.0)
            self.do("run_for", seconds=gap)
        self.do("run_for", seconds=pause)
        for task, (act, gap) in zip(self.tasks[before:], acts, strict=False):
            self.do(act, task=task)
            self.do("run_for", seconds=gap / 2)
        self.do("run_for", seconds=1.0)

    @precondition(lambda self: self.offers("pause", "delay", "partition") and self.live())
    @precondition(lambda self: len(self.tasks) <= MAX_TASKS - 2)
    @rule(choice=CHOICE, later=st.sampled_from([0.4, 0.58, 0.63, 0.7, 0.9]), timeouts=st.sampled_from([0.7, 1.5]))
    def freeze_before_the_answer(self, choice: int, later: float, timeouts: float) -> None:
        """Freeze a node while the answers to its claims are on their way, and resume it too late."""
        self.calm_down()
        if not self.live():
            return
        node = self.pick(choice)
        self.do("delay", node=node, seconds=0.2)
        self.do("run_for", seconds=2.2)
        self.submit(2, 0.0)
        self.do("run_for", seconds=later)
        self.do("pause", node=node)
        self.do("run_for", seconds=0.2)
        self.do("partition", node=node)
        self.do("run_for", seconds=timeouts * self.script.session_timeout)
        self.do("resume", node=node)
        self.do("run_for", seconds=0.5)
