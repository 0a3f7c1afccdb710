"""What a simulated cluster checks of each run as a user sees it: its properties, its children, why it stops.

The checks are tested here with wrong reports. The mutants test them with a wrong library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from metafora_trio import ConsumerStatistics, Outcome, RunningTask, StopReason
from metafora_trio._node.executor import Executor
from metafora_trio.events import TaskStarted
from metafora_trio.testing.simulation import BrokenPromise, SimulatedCluster, Submissions


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(nodes=2, seed=1) as cluster:
        cluster.run_for(3.0)
        cluster.submit("t")
        cluster.run_until_running("t")
        yield cluster


# ---- submissions


def test_each_acknowledged_submission_must_run() -> None:
    submissions = Submissions()
    first, second, third = (submissions.submit("t", {"n": n}) for n in range(3))
    first.acknowledged = second.acknowledged = True  # the third was refused, or its outcome is unknown
    assert submissions.started("t", {"n": 1}) == ""
    assert list(submissions.forgotten()) == [first]
    assert str(first) == "t with {'n': 0}"
    assert not third.ran


def test_a_delete_excuses_the_submissions_that_it_may_concern() -> None:
    submissions = Submissions()
    submissions.submit("t", {"n": 0}).acknowledged = True
    submissions.delete("t")
    crossing = submissions.submit("t", {"n": 1})
    submissions.delete_answered("t")
    later = submissions.submit("t", {"n": 2})
    crossing.acknowledged = later.acknowledged = True
    assert list(submissions.forgotten()) == [later]


def test_properties_that_nobody_submitted() -> None:
    submissions = Submissions()
    submissions.submit("t", {"n": 0})
    assert submissions.started("t", {"n": 1}) == "t runs with {'n': 1}, which nobody submitted"
    assert submissions.started("u", {"n": 0}) == "u runs with {'n': 0}, which nobody submitted"


def test_an_earlier_submission_does_not_run_again() -> None:
    submissions = Submissions()
    for n in range(2):
        submissions.submit("t", {"n": n})
    runs = [submissions.started("t", {"n": n}) for n in (0, 0, 1, 1, 0)]
    assert runs == ["", "", "", "", "t with {'n': 0} runs again after a later submission"]


def test_equal_properties_are_not_told_apart() -> None:
    """The author of a test may submit the same properties twice. One run then counts for both."""
    submissions = Submissions()
    for _ in range(2):
        submissions.submit("t", {}).acknowledged = True
    assert submissions.started("t", {}) == ""
    assert list(submissions.forgotten()) == []


def test_a_cluster_submits_different_properties_each_time(cluster: SimulatedCluster) -> None:
    def props() -> object:
        (running,) = [node.consumer.tasks["t"] for node in cluster.nodes.values() if "t" in node.consumer.tasks]
        return dict(running.props)

    assert props() == {"submission": 1}
    cluster.finish("t")
    cluster.run_for(1.0)
    cluster.submit("t", again=True)
    cluster.run_until_running("t")
    assert props() == {"submission": 2}
    cluster.settle()


def test_a_forgotten_submission_breaks_a_promise(cluster: SimulatedCluster) -> None:
    cluster.expectations.submissions.submit("t", {"lost": True}).acknowledged = True
    with pytest.raises(BrokenPromise, match=r"t with \{'lost': True\} was submitted, but never ran"):
        cluster.settle()


def test_a_handler_of_the_test_gets_what_the_test_submits() -> None:
    seen: list[object] = []

    async def handler(task: RunningTask) -> Outcome | None:
        seen.append(dict(task.props))
        return None

    with SimulatedCluster(handler, nodes=1) as cluster:
        cluster.submit("t")
        cluster.submit("u", n=1)
        cluster.run_for(5.0)
        assert sorted(seen, key=str) == [{"n": 1}, {}]
        cluster.settle()


# ---- runs


def test_a_run_stops_when_its_last_child_has_ended(cluster: SimulatedCluster) -> None:
    cluster.finish("t")
    cluster.run_for(0.005)
    assert [run.parts for run in cluster.monitor.open_runs()] == [1]
    cluster.run_for(0.01)
    assert cluster.monitor.open_runs() == []


@pytest.mark.parametrize(
    "reason, problem",
    [
        (None, "it is cancelled without a reason"),
        (StopReason.RELEASED, "it is released, but neither a client nor the balancer asked for that"),
        (StopReason.DELETED, "it stops as deleted, but no client deleted it"),
        (StopReason.DRAINED, r"it stops because the node leaves \(drained\), but nobody told the node to"),
        (StopReason.CLAIM_LOST, "it stops with claim_lost, but there was no fault"),
    ],
)
def test_a_reason_to_stop_must_have_a_cause(
    cluster: SimulatedCluster, reason: StopReason | None, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executors: list[Executor] = []
    look = Executor.look_at_everything

    def note(self: Executor) -> None:
        executors.append(self)
        look(self)

    monkeypatch.setattr(Executor, "look_at_everything", note)
    owner = cluster.nodes[str(cluster.owner("t"))]
    owner.place.call(owner.consumer.freeze)  # so that the executor is noted
    (run,) = executors[-1].open_runs()
    assert run._scope is not None
    if reason is None:
        owner.place.call(run._scope.cancel)
    else:
        owner.place.call(executors[-1].stop, run, reason)
    with pytest.raises(BrokenPromise, match=f"t on .*: {problem}"):
        cluster.run_for(1.0)


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda cluster, owner: cluster.stop_task("t"), id="stop_task"),
        pytest.param(lambda cluster, owner: cluster.delete("t"), id="delete"),
        pytest.param(lambda cluster, owner: cluster.drain(owner), id="drain"),
        pytest.param(lambda cluster, owner: cluster.expire(owner), id="expire"),
    ],
)
def test_a_reason_to_stop_that_has_a_cause(
    cluster: SimulatedCluster, stop: Callable[[SimulatedCluster, str], None]
) -> None:
    owner = cluster.owner("t")
    assert owner is not None
    stop(cluster, owner)
    cluster.run_for(1.0)
    assert cluster.monitor.events[-1].ev in ("stop", "start", "delete")
    cluster.settle()


# ---- the node


def test_events_out_of_order_break_a_promise(cluster: SimulatedCluster) -> None:
    place = cluster.nodes["n1"].place
    cluster.monitor.saw(TaskStarted("n1.other", "t", 9), place)
    with pytest.raises(BrokenPromise, match=r"out of order: TaskStarted of t on n1\.other with token 9"):
        cluster.run_for(1.0)


def test_the_events_of_a_dead_process_do_not_count(cluster: SimulatedCluster) -> None:
    cluster.crash("n1")
    cluster.monitor.saw(TaskStarted("n1.other", "t", 9), cluster.nodes["n1"].place)
    cluster.settle()


@pytest.mark.parametrize(
    "name, value, problem",
    [
        ("requests_outstanding", 2, "n1 still has 2 outstanding requests"),
        ("tasks_open", 3, "n1 owns . tasks, but reports .*tasks_open=3"),
        ("tasks_running", 3, "n1 owns . tasks, but reports .*tasks_running=3"),
    ],
)
def test_statistics_that_do_not_settle_break_a_promise(
    cluster: SimulatedCluster, name: str, value: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = cluster.nodes["n1"].consumer
    right = consumer.statistics

    def statistics() -> ConsumerStatistics:
        wrong = right()
        object.__setattr__(wrong, name, value)
        return wrong

    monkeypatch.setattr(consumer, "statistics", statistics)
    with pytest.raises(BrokenPromise, match=problem):
        cluster.settle()
