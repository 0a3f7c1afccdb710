"""One bad task costs no other task anything: nodes on a simulated ensemble whose ACLs refuse something about it."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from metafora_trio import StateName
from metafora_trio.events import SessionEnded, TaskEnded, TaskQuarantined
from tests.support.zookeeper.nodes import INNOCENT, open_nodes


@pytest.mark.parametrize("hidden", [True, False])
def test_a_bad_task_restarts_no_innocent_one(hidden: bool) -> None:
    """One task cannot be read, and the end of another cannot be written. Twelve others run on, and a node can join."""
    with open_nodes(3) as nodes:
        cluster = nodes.cluster
        nodes.forbid_reading("unreadable", hidden=hidden)
        cluster.submit("unreadable")
        nodes.submit(*INNOCENT, "refused")
        nodes.zookeeper.forbidden.writing.add(nodes.layout.state_path("refused"))
        cluster.finish("refused")
        cluster.run_for(60.0)
        assert nodes.of(SessionEnded) == []
        assert nodes.starts() == Counter([*INNOCENT, "refused"])
        ends = [event for event in nodes.events if isinstance(event, TaskEnded)]
        assert [event.task for event in ends] == ["refused"]  # reported once, although it was sent many times
        reported = {event.task for event in nodes.events if isinstance(event, TaskQuarantined)}
        assert reported == {"refused", "unreadable"}
        path = nodes.layout.state_path("refused")
        assert f"the end of task 'refused' cannot be written: no auth at {path}" in nodes.notices()
        assert "cannot read task 'unreadable': no auth" in nodes.notices()
        cluster.inflict("elect", out=0.5)  # every node lists everything again
        cluster.run_for(20.0)
        assert nodes.of(SessionEnded) == []
        joined = nodes.start()
        cluster.run_for(60.0)
        assert nodes.of(SessionEnded) == []
        assert cluster.nodes[joined].identity is not None
        nodes.allow_everything()
        cluster.run_until_running("unreadable", within=70.0)
        assert cluster.run_until(lambda: cluster.state("refused") is StateName.COMPLETED, within=70.0)
        assert cluster.run_until(lambda: not nodes.notices(), within=30.0)
        assert nodes.of(SessionEnded) == []
        assert nodes.starts()["refused"] == 1


def test_it_is_reported_once_and_tried_less_and_less_often() -> None:
    with open_nodes(1) as nodes:
        cluster = nodes.cluster
        nodes.submit("t")
        state = nodes.layout.state_path("t")
        nodes.zookeeper.forbidden.writing.add(state)
        before = len(nodes.zookeeper.log)
        cluster.finish("t")
        cluster.run_for(127.5)
        refused = [entry for entry in nodes.zookeeper.log[before:] if "no auth" in str(entry.result)]
        gaps = [later.committed - earlier.committed for earlier, later in itertools.pairwise(refused)]
        assert [round(gap) for gap in gaps] == [1, 2, 4, 8, 16, 32, 60]
        assert len(nodes.of(TaskQuarantined)) == 1


def test_an_end_without_a_directory_for_its_state_is_no_loop() -> None:
    """Somebody has removed the directory. The end is refused like any other, and reported once."""
    with open_nodes(2) as nodes:
        cluster = nodes.cluster
        nodes.submit("t")
        state = nodes.layout.state_path("t")
        for path in (state, state.rpartition("/")[0]):
            nodes.zookeeper.delete(path)
        before = len(nodes.zookeeper.log)
        cluster.finish("t")
        cluster.run_for(5.0)
        refused = [entry for entry in nodes.zookeeper.log[before:] if "no node" in str(entry.result)]
        assert len(refused) == 6  # after 0, 1 and 3 s, each time once to set the state and once to create it
        assert len(nodes.of(TaskEnded)) == len(nodes.of(TaskQuarantined)) == 1
        assert f"the end of task 't' cannot be written: no node at {state}" in nodes.notices()


def test_a_delete_that_comes_in_between_is_carried_out() -> None:
    """The state cannot be set, but a deleted task needs none."""
    with open_nodes(1) as nodes:
        cluster = nodes.cluster
        nodes.submit("t")
        nodes.zookeeper.forbidden.writing.add(nodes.layout.state_path("t"))
        cluster.finish("t")
        cluster.run_for(2.0)
        cluster.delete("t")
        cluster.run_for(8.0)
        assert not cluster.broker.contents().view.tasks
        assert nodes.notices() == []
        cluster.settle()


def test_the_end_is_kept_through_a_reconnect() -> None:
    with open_nodes(1) as nodes:
        cluster = nodes.cluster
        nodes.submit("t")
        nodes.zookeeper.forbidden.writing.add(nodes.layout.state_path("t"))
        cluster.finish("t")
        cluster.run_for(5.0)
        cluster.inflict("elect", out=0.5)
        cluster.run_for(5.0)
        assert nodes.starts()["t"] == 1
        nodes.allow_everything()
        assert cluster.run_until(lambda: cluster.state("t") is StateName.COMPLETED, within=70.0)
        assert nodes.of(SessionEnded) == []


def test_a_drain_that_meets_a_refusal_ends_at_its_deadline() -> None:
    with open_nodes(0) as nodes:
        cluster = nodes.cluster
        name = nodes.start(drain_timeout=20.0)
        cluster.run_for(3.0)
        nodes.submit("t", "other")
        nodes.zookeeper.forbidden.writing.add(nodes.layout.state_path("t"))
        cluster.finish("t")
        cluster.run_for(2.0)
        cluster.drain(name)
        cluster.run_for(19.0)
        assert cluster.runs(name)
        assert not cluster.monitor.open_runs()
        cluster.run_for(3.0)
        assert not cluster.runs(name)


def test_a_task_that_is_removed_unseen_leaves_no_claim() -> None:
    """A server hides the events of what may not be read, so the nodes do not hear that the task is gone."""
    with open_nodes(2) as nodes:
        cluster = nodes.cluster
        nodes.submit("t")
        nodes.forbid_reading("t")
        cluster.finish("t")
        cluster.run_for(30.0)
        contents = cluster.broker.contents()
        assert not contents.view.tasks
        assert not list(contents.view.claims())
        assert nodes.starts()["t"] == 1
        attempts = [entry for entry in nodes.zookeeper.log if any("/t~" in path for _, path in entry.events)]
        assert len(attempts) < 12
        cluster.settle()
