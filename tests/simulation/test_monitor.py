"""The monitor of a simulated cluster reports every kind of broken promise, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from metafora_trio._running_task import TaskLease
from metafora_trio.contract import Lease
from metafora_trio.testing.simulation import BrokenPromise, Monitor, World

A, B = "a.1", "b.2"


class Watched:
    """A monitor, two processes, and the owner of the task t in the broker's state."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owner: tuple[str, int] | None = None
        self.monitor = Monitor(world, lambda task: self.owner)
        self.a = world.spawn("a", trio.sleep_forever)
        self.b = world.spawn("b", trio.sleep_forever)
        world.run_for(1.0)

    def own(self, node: str, token: int) -> None:
        self.owner = node, token

    @property
    def problems(self) -> list[str]:
        return [text.partition(": ")[2] for text in self.monitor.violations]


@pytest.fixture
def watched() -> Iterator[Watched]:
    with World() as world:
        yield Watched(world)


def test_two_runs_one_after_the_other_are_right(watched: Watched) -> None:
    watched.own(A, 1)
    run = watched.monitor.start("t", A, 1, watched.a)
    watched.monitor.stop(run, ended=False)
    watched.own(B, 2)
    watched.monitor.start("t", B, 2, watched.b)
    watched.monitor.check()
    assert [run.token for run in watched.monitor.open_runs()] == [2]


def test_two_runs_at_once_are_reported(watched: Watched) -> None:
    watched.own(A, 1)
    watched.monitor.start("t", A, 1, watched.a)
    watched.own(B, 2)
    watched.monitor.start("t", B, 2, watched.b)
    assert watched.problems == ["t on b.2 with token 2 starts while t on a.1 with token 1 still runs"]
    with pytest.raises(BrokenPromise, match=r"^at 1\.000000 s: t on b"):
        watched.monitor.check()


def test_start_without_the_claim(watched: Watched) -> None:
    watched.monitor.start("t", A, 1, watched.a)
    assert watched.problems == ["t on a.1 with token 1 starts, but the owner is None"]


@pytest.mark.parametrize("token", [1, 2])
def test_a_token_that_does_not_grow(watched: Watched, token: int) -> None:
    watched.own(A, 2)
    watched.monitor.stop(watched.monitor.start("t", A, 2, watched.a), ended=False)
    watched.own(B, token)
    watched.monitor.start("t", B, token, watched.b)
    assert watched.problems[0] == f"t on b.2 with token {token} starts after token 2 of a.1"


def test_one_session_may_start_its_task_again(watched: Watched) -> None:
    watched.own(A, 2)
    for _ in range(2):
        watched.monitor.stop(watched.monitor.start("t", A, 2, watched.a), ended=False)
    assert watched.problems == []


def test_a_claim_that_goes_while_the_task_runs(watched: Watched) -> None:
    watched.own(A, 1)
    watched.monitor.start("t", A, 1, watched.a)
    watched.monitor.claim_gone("t", B, 2)
    assert watched.problems == []
    watched.monitor.claim_gone("t", A, 1)
    assert watched.problems == ["t on a.1 with token 1 still runs, but its claim is gone"]


def frozen_past_its_lease(watched: Watched) -> None:
    watched.own(A, 1)
    watched.monitor.start("t", A, 1, watched.a)
    watched.world.freeze(watched.a)
    watched.monitor.freeze(watched.a)
    watched.world.run_for(9.0)
    watched.monitor.claim_gone("t", A, 1)
    watched.own(B, 2)
    watched.monitor.start("t", B, 2, watched.b)
    watched.world.run_for(1.0)
    watched.monitor.thaw(watched.a)
    watched.world.thaw(watched.a)


def test_a_frozen_process_does_not_run_and_has_a_moment_after_the_thaw(watched: Watched) -> None:
    frozen_past_its_lease(watched)
    watched.world.run_for(0.049)
    (run,) = (run for run in watched.monitor.open_runs() if run.node == A)
    assert not watched.monitor.write(run)
    watched.monitor.stop(run, ended=False)
    watched.world.run_for(5.0)
    assert watched.problems == []
    assert watched.monitor.rejected == 2


def test_another_may_start_within_that_moment(watched: Watched) -> None:
    frozen_past_its_lease(watched)
    watched.world.run_for(0.02)
    (first, second) = watched.monitor.open_runs()
    watched.monitor.stop(second, ended=False)
    watched.own(B, 3)
    watched.monitor.start("t", B, 3, watched.b)
    assert watched.problems == []
    watched.monitor.stop(first, ended=False)
    watched.world.run_for(1.0)
    assert watched.problems == []


def test_the_moment_after_a_thaw_ends(watched: Watched) -> None:
    frozen_past_its_lease(watched)
    watched.world.run_for(0.051)
    assert watched.problems == ["t on a.1 with token 1 still runs after a thaw, and so does t on b.2 with token 2"]


def test_a_machine_that_was_suspended_has_the_time_until_it_must_notice(watched: Watched) -> None:
    watched.own(A, 1)
    watched.monitor.start("t", A, 1, watched.a)
    watched.world.suspend(watched.a)
    watched.monitor.freeze(watched.a)
    watched.world.run_for(9.0)
    watched.own(B, 2)
    watched.monitor.start("t", B, 2, watched.b)
    watched.monitor.thaw(watched.a, 0.3)
    watched.world.thaw(watched.a)
    watched.world.run_for(0.349)
    assert watched.problems == []
    watched.world.run_for(0.002)
    assert watched.problems == ["t on a.1 with token 1 still runs after a thaw, and so does t on b.2 with token 2"]
    assert [event.t / 1e9 for event in watched.monitor.events if event.ev == "thaw"] == [10.3]


def test_a_machine_that_stops_again_before_it_must_have_noticed(watched: Watched) -> None:
    """In the history, it has been stopped all the time."""
    for _ in range(2):
        watched.monitor.freeze(watched.a)
        watched.world.suspend(watched.a)
        watched.world.run_for(1.0)
        watched.monitor.thaw(watched.a, 0.3)
        watched.world.thaw(watched.a)
        watched.world.run_for(0.1)
    watched.world.run_for(1.0)
    assert [event.ev for event in watched.monitor.events] == ["freeze", "freeze", "thaw"]


def test_a_run_that_starts_after_a_thaw_counts_at_once(watched: Watched) -> None:
    """The lease, and the clock, are looked at in the step in which a scope opens."""
    watched.world.freeze(watched.a)
    watched.monitor.freeze(watched.a)
    watched.world.run_for(1.0)
    watched.monitor.thaw(watched.a)
    watched.world.thaw(watched.a)
    watched.monitor.start("t", A, 1, watched.a)
    assert watched.problems == ["t on a.1 with token 1 starts, but the owner is None"]


def test_a_thawed_run_without_its_claim(watched: Watched) -> None:
    frozen_past_its_lease(watched)
    (run,) = (run for run in watched.monitor.open_runs() if run.node == B)
    watched.monitor.stop(run, ended=False)
    watched.owner = None
    watched.world.run_for(1.0)
    assert watched.problems == ["t on a.1 with token 1 still runs after a thaw, but the owner is None"]


@pytest.mark.parametrize("what", [A, "a", "the run"])
def test_once_an_assumption_is_broken_only_the_fence_is_checked(watched: Watched, what: str) -> None:
    watched.own(A, 1)
    stuck = watched.monitor.start("t", A, 1, watched.a)
    if what == "the run":
        stuck.ignored = TaskLease(Lease(cancel_at=0.5, end=watched.world.now))
    else:
        watched.monitor.void(what)
    watched.monitor.claim_gone("t", A, 1)
    watched.own(B, 2)
    run = watched.monitor.start("t", B, 2, watched.b)
    assert watched.problems == []
    assert watched.monitor.write(run)
    assert not watched.monitor.write(stuck)


def test_a_token_that_shrinks_once_an_assumption_is_broken(watched: Watched) -> None:
    """The fence needs no assumption: with a smaller token it would refuse the writes of the owner as a zombie's."""
    watched.own(A, 2)
    watched.monitor.start("t", A, 2, watched.a)
    watched.monitor.void("b")
    watched.own(B, 1)
    watched.monitor.start("t", B, 1, watched.b)
    assert watched.problems == ["t on b.2 with token 1 owns its task, but the store refused its token as an old one"]


def test_a_dead_process_does_nothing(watched: Watched) -> None:
    watched.own(A, 1)
    run = watched.monitor.start("t", A, 1, watched.a)
    watched.world.kill(watched.a)
    watched.monitor.kill(watched.a)
    watched.monitor.stop(run, ended=True)
    watched.monitor.start("t", A, 1, watched.a)
    assert watched.monitor.open_runs() == []
    assert watched.monitor.ended == set()
    assert not watched.monitor.write(run)
    assert [event.ev for event in watched.monitor.events] == ["start", "kill"]
