"""LethalTasks: a task that ends node after node is left alone; tasks that are only nearby are not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import Claim, NodeInfo
from metafora_trio._model.lethal_tasks import LethalTasks
from metafora_trio._model.view import ClaimAdded, ClaimRemoved, NodeAdded, NodeRemoved, TaskAdded, ViewEvent
from metafora_trio.contract import ClaimKind, ClusterView


class Watch:
    """The view of one node: nodes come and go, and get tasks."""

    def __init__(self, *nodes: str) -> None:
        self.lethal = LethalTasks()
        self.nodes: dict[str, NodeInfo] = {}
        self.tasks = {"t": False, "u": False, "v": False}
        self.now = 0.0
        self.come(*nodes)

    def come(self, *nodes: str, draining: bool = False) -> None:
        self.nodes |= {node: NodeInfo(node, draining=draining) for node in nodes}
        self.look()

    def go(self, node: str) -> None:
        del self.nodes[node]
        self.look()

    def look(self) -> None:
        self.lethal.look_at_nodes(self.nodes, self.tasks, self.now)

    def get(self, node: str | None, *tasks: str) -> None:
        for task in tasks:
            self.lethal.look_at_task(task, node, self.now)

    def kill(self, node: str, *tasks: str, after: float = 2.0) -> None:
        """Let a node get tasks, and then go."""
        self.get(node, *tasks)
        self.now += after
        self.get(None, *tasks)
        self.go(node)

    def alone(self) -> set[str]:
        return {task for task in self.tasks if self.lethal.left_alone(task, self.now)}


def test_after_three_nodes_it_is_left_alone() -> None:
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    watch.kill("a.1", "t")
    watch.kill("b.2", "t")
    assert (watch.alone(), list(watch.lethal.found())) == (set(), [])
    watch.kill("c.3", "t")
    assert (watch.alone(), list(watch.lethal.found())) == ({"t"}, [("t", 3)])
    watch.now += 5.0
    assert (watch.alone(), list(watch.lethal.found())) == (set(), [("t", 3)])


def test_a_node_that_has_had_it_for_a_minute_is_no_victim() -> None:
    """The time counts from when the node got the task, however often the task is looked at, and whatever other tasks
    have changed hands since."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    watch.get("d.4", "t")
    watch.get("d.4", "u")
    watch.now += 30.0
    watch.get("a.1", "t")
    for node in ("a.1", "b.2", "c.3"):
        watch.get(node, "t")
        watch.now += 59.0
        watch.get(node, "t")
        watch.now += 2.0
        watch.look()
        watch.go(node)
    assert watch.alone() == set()


@pytest.mark.parametrize("seconds, alone", [(60.0, {"t"}), (60.1, set())])
def test_a_minute_is_long_enough(seconds: float, alone: set[str]) -> None:
    watch = Watch("a.1", "b.2", "c.3")
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t", after=seconds)
    assert watch.alone() == alone


def test_a_task_that_has_moved_does_not_keep_others_from_lasting() -> None:
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    watch.kill("a.1", "t")
    watch.kill("b.2", "t")
    watch.get("d.4", "u")
    watch.get("c.3", "t")
    watch.now += 40.0
    watch.get("c.3", "u")  # the first that was got, and now the last
    watch.now += 30.0
    watch.get(None, "t")
    watch.go("c.3")
    assert watch.alone() == set()


def test_owners_in_an_earlier_view_are_no_victims() -> None:
    """Nobody knows whether they still had the task when they went."""
    watch = Watch("a.1", "b.2", "c.3")
    for node in ("a.1", "b.2", "c.3"):
        watch.get(node, "t")
        watch.lethal.forget_owners()
        watch.look()
        watch.go(node)
    assert watch.alone() == set()


@pytest.mark.parametrize("steps", ["claim late", "next owner early"])
def test_nothing_is_counted_across_views(steps: str) -> None:
    """A node that went, or lost the task, in an earlier view is no victim of what the new one shows."""
    watch = Watch("a.1", "b.2", "c.3", "d.4", "e.5")
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t")
    watch.now += 5.0
    if steps == "claim late":
        watch.go("d.4")
        watch.lethal.forget_owners()
        watch.look()
        watch.get("d.4", "t")
    else:
        watch.get("d.4", "t")
        watch.get("e.5", "t")
        watch.lethal.forget_owners()
        watch.look()
        watch.go("d.4")
    assert watch.alone() == set()


def test_the_tasks_that_are_followed() -> None:
    """Those that a node got less than a minute ago, and those under suspicion."""
    watch = Watch("a.1", "b.2")
    watch.get("b.2", "v")
    watch.now += 30.0
    watch.kill("a.1", "t")
    watch.get("b.2", "u")
    watch.now += 31.0
    watch.look()
    assert set(watch.lethal.followed()) == {"t", "u"}


def test_each_time_for_longer() -> None:
    """The time grows with each further node, even one that came later, from 5 s to an hour."""
    watch = Watch("a.1", "b.2", "c.3")
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t")
    periods = []
    for i in range(7):
        before = watch.now
        while watch.alone():
            watch.now += 1.0
        periods.append(watch.now - before)
        watch.come(f"new.{i}")
        watch.kill(f"new.{i}", "t")
    assert periods == [5, 20, 80, 320, 1280, 3600, 3600]


def test_one_that_lasts_is_cleared() -> None:
    """A node that keeps the task for a minute clears it, even after it was left alone."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t")
    watch.get("d.4", "t")
    watch.now += 61.0
    watch.look()
    assert list(watch.lethal.found()) == []
    watch.go("d.4")
    assert watch.alone() == set()


def test_a_late_death_does_not_count() -> None:
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    for node in ("a.1", "b.2", "c.3", "d.4"):
        watch.kill(node, "t", after=61.0)
    assert watch.alone() == set()


def test_a_node_that_drains_is_no_victim() -> None:
    watch = Watch()
    watch.come("a.1", "b.2", "c.3", draining=True)
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t")
    assert watch.alone() == set()


def test_a_task_that_moved_on_in_time_is_not_suspected() -> None:
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    for node in ("a.1", "b.2", "c.3"):
        watch.get(node, "t")
        watch.get("d.4", "t")
        watch.now += 2.0
        watch.go(node)
    assert watch.alone() == set()


def test_a_crash_loop_harms_no_task() -> None:
    """However often one node crashes and restarts with the same tasks, under whatever name, they are not suspected."""
    watch = Watch("bad.0", "good.1")
    for i in range(1, 20):
        watch.come(f"bad{i}.{i}")  # restarted before the session of the last one has expired
        watch.kill(f"bad{i - 1}.{i - 1}" if i > 1 else "bad.0", "t", "u", "v")
        watch.get("good.1", "t", "u", "v")
        watch.now += 1.0
    assert watch.alone() == set()


def test_tasks_that_are_gone_are_forgotten() -> None:
    watch = Watch("a.1", "b.2", "c.3")
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t")
    del watch.tasks["t"]
    watch.look()
    assert list(watch.lethal.found()) == []


def test_a_new_view() -> None:
    """After a new join, the node knows neither who had which task nor who has gone meanwhile, but what it has found."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    watch.kill("a.1", "t")
    watch.kill("b.2", "t")
    watch.get("c.3", "t", "u")
    watch.lethal.forget_owners()
    watch.go("c.3")
    assert watch.alone() == set()
    watch.come("e.5")
    for node in ("d.4",):
        watch.kill(node, "t")
    assert watch.alone() == set()  # it is not known whether d was there when the first node got it


class Follower:
    """A node that follows a view as `Membership` does: it looks at what has changed from time to time, in batches."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self.lethal = LethalTasks()
        self.view = ClusterView()
        self.now = 0.0
        self.nodes_changed = self.task_changed = False
        for node in nodes:
            self.apply(NodeAdded(NodeInfo(node)))
        self.apply(TaskAdded("t"))
        self.follow()

    def apply(self, event: ViewEvent) -> None:
        self.view.apply(event)
        if isinstance(event, NodeAdded | NodeRemoved):
            self.nodes_changed = True
        else:
            self.task_changed = True

    def plan(self) -> None:
        """Look at the nodes, as each plan does, even if it comes before the follower has its turn."""
        self.lethal.look_at_nodes(self.view.nodes, self.view.tasks, self.now)

    def follow(self) -> None:
        if self.nodes_changed:
            self.plan()
        if self.task_changed:
            self.lethal.look_at_task("t", self.view.owner("t"), self.now)
        self.nodes_changed = self.task_changed = False


LOOKS = ["", "plan", "follow", "plan follow"]
VICTIMS = ["a.1", "b.2", "c.3"]


@pytest.mark.parametrize("heir", [False, True], ids=["no heir", "heir"])
@pytest.mark.parametrize("node_first", [True, False], ids=["node first", "claim first"])
def test_in_whatever_order_it_is_seen(node_first: bool, heir: bool) -> None:
    """The broker removes a node's claims before its record or after it, and either may be seen together with the claim,
    or later, by the follower or by a plan. With an heir, the task has its next owner before the node is seen to go."""
    for looks in itertools.product(LOOKS, repeat=3):
        follower = Follower([*VICTIMS, "d.4"])
        for number, victim in enumerate(VICTIMS):
            claim = Claim(2 * number, "t", victim, ClaimKind.CLAIM)
            bid = Claim(2 * number + 1, "t", "d.4", ClaimKind.BID)
            gone: list[ViewEvent] = [NodeRemoved(victim), ClaimRemoved(claim)]
            events = [ClaimAdded(claim), *(gone if node_first else reversed(gone))]
            seen = False
            for event, look in zip(events, looks, strict=True):
                follower.apply(event)
                if heir and event == ClaimAdded(claim):
                    follower.apply(ClaimAdded(bid))
                for step in look.split():
                    getattr(follower, step)()
                    seen = seen or (step == "follow" and follower.view.owner("t") == victim)
                follower.now += 0.01
            follower.follow()
            if not seen:
                break  # a task that came and went between two looks was never seen with the node
            assert not follower.lethal.left_alone("t", follower.now) or number == 2, looks
            follower.apply(ClaimRemoved(bid))
            follower.follow()
            follower.now += 5.0
        else:
            assert list(follower.lethal.found()) == [("t", 3)], looks


def test_each_victim_counts_once() -> None:
    """The claim of a node that is gone may stay for a while, and its task is looked at again."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    watch.kill("a.1", "t")
    for _ in range(3):
        watch.get("a.1", "t")
        watch.look()
    watch.kill("b.2", "t")
    watch.get("b.2", "t")
    assert watch.alone() == set()


@pytest.mark.parametrize("after, alone", [(60.0, {"t"}), (60.1, set())])
def test_a_claim_that_is_seen_long_after_its_node_has_gone(after: float, alone: set[str]) -> None:
    """A node that has gone is remembered for a minute."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    for node in ("a.1", "b.2", "c.3"):
        watch.now += 200.0
        watch.go(node)
        watch.now += after
        watch.look()
        watch.get(node, "t")
    assert watch.alone() == alone


def test_a_claim_that_outlasts_its_node_clears_nothing() -> None:
    """Only a node that is there can show that the task does not end it."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    for node in ("a.1", "b.2", "c.3"):
        watch.kill(node, "t")
    watch.get("c.3", "t")
    watch.now += 30.0
    watch.get("e.5", "t")  # a node that came and went between two looks
    for _ in range(2):
        watch.now += 61.0
        watch.look()
    assert list(watch.lethal.found()) == [("t", 3)]


@pytest.mark.parametrize("after, alone", [(1.0, {"t"}), (1.1, set())])
def test_a_node_that_goes_long_after_it_has_handed_a_task_over(after: float, alone: set[str]) -> None:
    """It is no victim. Within a second, the task may have moved on because the broker removed its claim first."""
    watch = Watch("a.1", "b.2", "c.3", "d.4")
    for node in ("a.1", "b.2", "c.3"):
        watch.get(node, "t")
        watch.now += 2.0
        watch.get("d.4", "t")
        watch.now += after
        watch.go(node)
    assert watch.alone() == alone


def test_a_node_that_has_drained_is_no_victim_of_a_late_claim() -> None:
    watch = Watch()
    watch.come("a.1", "b.2", "c.3", draining=True)
    for node in ("a.1", "b.2", "c.3"):
        watch.go(node)
        watch.get(node, "t")
    assert watch.alone() == set()


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sets(st.sampled_from(["t", "u", "v"])), st.floats(0, 100))))
@pytest.mark.filterwarnings("error")
def test_only_tasks_of_three_victims(deaths: list[tuple[str, set[str], float]]) -> None:
    """Whatever happens, a task is left alone only if three nodes have gone within a minute of getting it."""
    watch = Watch(*(f"{name}.0" for name in "abcdef"))
    victims: dict[str, set[str]] = {"t": set(), "u": set(), "v": set()}
    for name, tasks, after in deaths:
        node = f"{name}.0"
        if node not in watch.nodes:
            continue
        watch.kill(node, *sorted(tasks), after=after)
        for task in tasks:
            if after <= 60.0:
                victims[task].add(node)
            else:
                victims[task].clear()
        for task in watch.alone():
            assert len(victims[task]) >= 3


def test_sessions_of_a_name_that_go_without_the_task_clear_the_others() -> None:
    """Such a node fails for another reason. A task that it gets now and then is innocent, whatever else fails."""
    watch = Watch("good.1", "bad.1", "bad.2", "bad.3", "other.1")
    watch.go("bad.1")
    watch.kill("bad.2", "t")
    watch.kill("bad.3", "t")
    watch.kill("good.1", "t")
    assert watch.alone() == set()
    assert list(watch.lethal.found()) == []


def test_nodes_of_one_name_may_all_be_victims() -> None:
    watch = Watch("worker.1", "worker.2", "worker.3", "worker.4")
    for node in ("worker.1", "worker.2", "worker.3"):
        watch.kill(node, "t")
    assert watch.alone() == {"t"}
