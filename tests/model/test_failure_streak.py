"""FailureStreak: a node on which task after task fails takes tasks only on trial, and always tries again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metafora_trio._model.failure_streak import FailureStreak

TASKS = st.sampled_from(["a", "b", "c", "d"])


def suspended(now: float = 0.0) -> FailureStreak:
    streak = FailureStreak(3)
    for task in "xyz":
        streak.fail(task, 1.0, now)
    assert streak.suspended
    return streak


def test_three_failures_in_a_row_suspend() -> None:
    streak = FailureStreak(3)
    for task in "ab":
        streak.fail(task, 1.0, 10.0)
        assert not streak.suspended
        assert streak.may_take(10.0)
    streak.fail("c", 1.0, 10.0)
    assert streak.suspended
    assert (streak.may_take(14.9), streak.may_take(15.0)) == (False, True)
    assert not streak.may_run("d")


@pytest.mark.parametrize("between", ["succeed", "lasted and failed"])
def test_a_success_in_between(between: str) -> None:
    """A completed task ends a streak. So does one that fails only after a minute: the node can run tasks."""
    streak = FailureStreak(3)
    for task in "ab":
        streak.fail(task, 1.0, 0.0)
    if between == "succeed":
        streak.succeed()
    else:
        streak.fail("c", 60.0, 0.0)
    for task in "de":
        streak.fail(task, 1.0, 0.0)
    assert not streak.suspended


@pytest.mark.parametrize("seconds, counts", [(600.0, True), (600.1, False)])
def test_failures_are_forgotten(seconds: float, counts: bool) -> None:
    """Only failures of the last ten minutes count: tasks that fail now and then are no streak."""
    streak = FailureStreak(3)
    for now in (0.0, 100.0, seconds):
        streak.fail("t", 1.0, now)
    assert streak.suspended == counts


def test_a_failure_each_day_suspends_nothing() -> None:
    """Even if the node has no success meanwhile, because it runs only tasks that never end, or none."""
    for running in ([], ["well"]):
        streak = FailureStreak(3)
        for task in running:
            streak.start(task, 0.0)
        for day in range(1, 366):
            streak.look(day * 86400.0 - 1.0)
            streak.fail("t", 1.0, day * 86400.0)
            assert not streak.suspended
        streak.look(365 * 86400.0 + 601.0)
        for task in running:
            streak.stop(task)
        assert (streak.suspended, streak.failures) == (False, 0)


def test_the_length_of_a_forgotten_failure_says_nothing() -> None:
    """After it, tasks run well again as soon as before."""
    streak = FailureStreak(3)
    streak.fail("slow", 50.0, 0.0)
    streak.start("well", 700.0)
    for now in (705.0, 705.0, 705.0):
        streak.fail("bad", 0.1, now)
    assert not streak.suspended


def test_a_suspended_node_forgets_nothing() -> None:
    """Only a success shows that its handler works again. It may have had no task to try meanwhile."""
    streak = suspended()
    streak.look(86400.0)
    assert streak.suspended
    streak.take("t")
    streak.fail("t", 1.0, 86400.0)
    assert (streak.suspended, streak.failures) == (True, 4)


def test_one_task_on_trial() -> None:
    """On trial there is one task at a time. Only that one may start."""
    streak = suspended()
    streak.take("t")
    assert (streak.trial, streak.may_run("t"), streak.may_run("u")) == ("t", True, False)
    assert not streak.may_take(1000.0)
    streak.stop("u")
    assert not streak.may_take(1000.0)
    streak.stop("t")  # it moved on, or was not got
    assert streak.may_take(1000.0)


def test_the_pause_doubles_up_to_five_minutes() -> None:
    streak, now, pauses = suspended(), 0.0, []
    for _ in range(9):
        pauses.append(streak.trial_at - now)
        now = streak.trial_at
        streak.take("t")
        streak.fail("t", 1.0, now)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert streak.failures == 12


def test_the_pause_counts_from_the_last_failure() -> None:
    streak = FailureStreak(3)
    for now in (10.0, 20.0, 30.0):
        streak.fail("t", 1.0, now)
    assert (streak.may_take(34.9), streak.may_take(35.0)) == (False, True)


def test_after_each_trial_there_is_another() -> None:
    """The trial failed, or it succeeded long before the node was suspended again."""
    streak = suspended()
    streak.take("t")
    streak.fail("t", 1.0, 5.0)
    assert (streak.may_run("t"), streak.may_take(15.0)) == (False, True)
    streak.take("u")
    streak.succeed()
    for task in "xyz":
        streak.fail(task, 1.0, 100.0)
    assert (streak.may_run("u"), streak.may_take(105.0)) == (False, True)


def test_tasks_that_began_before_add_nothing() -> None:
    """Many tasks may start before the third fails. Their failures do not make the pause longer."""
    streak = suspended()
    for i in range(100):
        streak.fail(f"t{i}", 1.0, 2.0)
    assert (streak.failures, streak.trial_at) == (3, 5.0)


def test_a_task_that_lasts_is_a_success() -> None:
    """A task that began since the first failure and still runs after a minute ends the streak."""
    streak = FailureStreak(3)
    streak.fail("x", 1.0, 0.0)
    streak.start("since", 1.0)
    streak.fail("y", 1.0, 2.0)
    streak.fail("z", 1.0, 3.0)
    streak.look(20.9)
    assert streak.suspended
    streak.look(21.0)
    assert (streak.suspended, streak.failures) == (False, 3)
    streak.look(61.0)
    assert streak.failures == 0


def test_tasks_that_run_well_speak_for_the_node() -> None:
    """The node bears `most` failures more for each task that has lasted 20 times as long as the failures, and 5 s."""
    streak = FailureStreak(3)
    streak.start("well", 0.0)
    streak.start("well too", 0.0)
    for i in range(8):
        streak.fail(f"bad{i}", 0.1, 5.0)
        assert not streak.suspended
    streak.fail("bad", 0.1, 5.0)
    assert streak.suspended


def test_tasks_that_have_not_lasted_longer_than_the_failures_say_nothing() -> None:
    streak = FailureStreak(3)
    streak.start("t", 0.0)
    for i in range(3):
        streak.fail(f"bad{i}", 1.0, 19.9)
    assert streak.suspended


def test_the_longest_failure_decides_what_is_much_longer() -> None:
    streak = FailureStreak(3)
    streak.start("t", 0.0)
    for seconds in (1.0, 0.1, 0.1):
        streak.fail("bad", seconds, 19.9)
    assert streak.suspended


def test_a_few_seconds_say_nothing() -> None:
    """However short the failures are, a task runs well after five seconds."""
    streak = FailureStreak(3)
    streak.start("t", 0.0)
    for _ in range(3):
        streak.fail("bad", 0.0, 4.9)
    assert streak.suspended


def test_a_success_ends_the_longest_failure_too() -> None:
    streak = FailureStreak(3)
    streak.fail("slow", 50.0, 0.0)
    streak.succeed()
    streak.start("well", 0.0)
    for _ in range(3):
        streak.fail("bad", 0.1, 5.0)
    assert not streak.suspended


def test_a_task_that_began_with_the_first_failure_can_last() -> None:
    streak = suspended()
    streak.take("t")
    streak.start("t", 0.0)
    streak.look(60.0)
    assert streak.failures == 0


def test_only_some_of_many_running_tasks_are_followed() -> None:
    """A node may run thousands of tasks, and their memory counts."""
    streak = FailureStreak(3)
    for i in range(1000):
        streak.start(f"t{i}", 0.0)
    for i in range(3 * 33 - 1):
        streak.fail(f"bad{i}", 0.1, 100.0)
    assert not streak.suspended
    streak.fail("bad", 0.1, 100.0)
    assert streak.suspended


def test_a_task_that_is_stopped_does_not_last() -> None:
    streak = suspended()
    streak.take("t")
    streak.start("t", 5.0)
    streak.stop("t")
    streak.look(100.0)
    assert streak.suspended


def test_a_task_that_was_told_to_stop_does_not_last() -> None:
    """It is on trial until it has stopped."""
    streak = suspended()
    streak.take("t")
    streak.start("t", 5.0)
    streak.told_to_stop("t")
    streak.told_to_stop("another")
    streak.look(100.0)
    assert streak.suspended
    assert not streak.may_take(100.0)
    streak.stop("t")
    assert streak.may_take(100.0)


def test_a_task_that_has_failed_does_not_last() -> None:
    streak = suspended()
    streak.take("t")
    streak.start("t", 5.0)
    streak.fail("t", 1.0, 6.0)
    streak.look(100.0)
    assert streak.suspended


def test_a_task_from_before_a_success_ends_no_later_streak() -> None:
    """It speaks for the node while it runs, but the failures go on counting."""
    streak = FailureStreak(3)
    streak.fail("x", 1.0, 0.0)
    streak.start("before", 1.0)
    streak.succeed()
    for task in "xyz":
        streak.fail(task, 1.0, 50.0)
    streak.look(100.0)
    assert (streak.suspended, streak.failures) == (False, 3)
    streak.stop("before")
    streak.look(100.0)
    assert streak.suspended


@given(st.lists(TASKS))
def test_never_suspended_without_a_limit(tasks: list[str]) -> None:
    streak = FailureStreak(None)
    for task in tasks:
        streak.fail(task, 0.1, 0.0)
        assert streak.may_take(0.0)
        assert streak.may_run(task)
    assert streak.failures == 0  # nothing is kept


class Streaks(RuleBasedStateMachine):
    """Any order of starts, ends and pauses: a suspended node has at most one task on trial, and the trials go on."""

    @initialize(most=st.integers(1, 4))
    def begin(self, most: int) -> None:
        self.most = most
        self.streak = FailureStreak(most)
        self.now = 0.0
        self.counted: list[float] = []
        self.last_trial = -math.inf

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.streak.may_take(self.now))
    @rule(task=TASKS)
    def take(self, task: str) -> None:
        if self.streak.suspended:
            self.last_trial = self.now
        self.streak.take(task)
        assert self.streak.may_run(task)

    @rule(task=TASKS)
    def start(self, task: str) -> None:
        if self.streak.may_run(task):
            self.streak.start(task, self.now)

    @rule(task=TASKS, seconds=st.floats(0, 59))
    def fail(self, task: str, seconds: float) -> None:
        trial = task == self.streak.trial
        self.forget()
        self.streak.fail(task, seconds, self.now)
        if len(self.counted) == self.streak.failures:
            assert self.streak.suspended
            assert not trial
        else:
            self.counted.append(self.now)
        assert self.streak.failures == len(self.counted)
        if any(self.now - began >= 5.0 for began in self.streak._started.values()):
            assert not self.streak.suspended or len(self.counted) >= self.most
        else:
            assert self.streak.suspended == (len(self.counted) >= self.most)
        if trial:
            assert not self.streak.may_take(self.now + 4.9)

    @rule(task=TASKS)
    def stop(self, task: str) -> None:
        self.streak.stop(task)

    @rule(task=TASKS)
    def told_to_stop(self, task: str) -> None:
        self.streak.told_to_stop(task)

    @rule()
    def succeed(self) -> None:
        self.streak.succeed()
        self.counted = []

    @rule()
    def look(self) -> None:
        self.streak.look(self.now)
        if self.streak.failures:
            self.forget()
        else:
            self.counted = []

    def forget(self) -> None:
        if not self.streak.suspended:
            self.counted = [at for at in self.counted if self.now - at <= 600.0]

    @invariant()
    def trials_go_on(self) -> None:
        assert self.streak.trial is not None or self.streak.may_take(self.now + 300.0)


TestStreaks = Streaks.TestCase
