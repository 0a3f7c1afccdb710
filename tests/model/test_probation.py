"""Probation: a node that keeps losing its sessions gets no tasks for a while, longer each time, until it has lasted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import NodeInfo
from metafora_trio._model.node_info import MAX_LOSING
from metafora_trio._model.probation import Probation


class Watch:
    """The view of one node: sessions come and go."""

    def __init__(self, *others: str) -> None:
        self.probation = Probation()
        self.nodes: dict[str, NodeInfo] = {}
        self.now = 1000.0
        self.marks = 0
        for name in others or ("good",):
            self.come(name)

    def come(self, name: str) -> str:
        """Let a node join, and return its identity."""
        self.marks += 1
        node = NodeInfo(f"{name}.{self.marks}", since=self.now)
        self.nodes[node.identity] = node
        self.look()
        return node.identity

    def go(self, identity: str) -> None:
        del self.nodes[identity]
        self.look()

    def look(self, after: float = 0.0) -> None:
        self.now += after
        self.probation.look(self.nodes, self.now)

    def held(self) -> set[str]:
        return set(self.probation.held_back(self.now))

    def lose(self, count: int, lived: float = 3.0) -> str:
        """Let a node lose so many sessions, one after another, and return the identity of its next one."""
        identity = self.come("bad")
        for _ in range(count):
            self.now += lived
            self.go(identity)
            identity = self.come("bad")
        return identity

    def length(self, identity: str) -> float:
        """Return for how many seconds the node is held back."""
        began = self.now
        while identity in self.held():
            self.look(1.0)
        return self.now - began


@pytest.mark.parametrize(
    "losses, seconds", [(0, 0), (1, 0), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (7, 60), (2000, 60)]
)
def test_each_loss_doubles_it(losses: int, seconds: float) -> None:
    """A single loss costs nothing. No number of them costs more than a minute."""
    watch = Watch()
    assert watch.length(watch.lose(losses)) == seconds


def test_one_that_has_lasted_begins_again() -> None:
    """A session of a minute ends it. The next loss counts as the first."""
    watch = Watch()
    identity = watch.lose(5)
    watch.look(61.0)
    watch.go(identity)
    identity = watch.come("bad")
    assert watch.held() == set()
    watch.look(3.0)
    watch.go(identity)
    assert watch.length(watch.come("bad")) == 4


def test_a_long_session_that_was_not_looked_at() -> None:
    """A session that has lasted ends it even if the nodes were not looked at meanwhile."""
    watch = Watch()
    identity = watch.lose(5)
    watch.now += 61.0
    watch.go(identity)
    watch.come("bad")
    assert watch.held() == set()


def test_losses_are_forgotten() -> None:
    """After ten minutes."""
    for seconds, held in ((599.9, True), (600.0, False)):
        watch = Watch()
        watch.go(watch.lose(5))
        watch.look(seconds)
        assert (watch.come("bad") in watch.held()) == held


@pytest.mark.parametrize("lived, held", [(59.9, True), (60.0, False)])
def test_a_minute_is_long_enough_while_the_node_lives(lived: float, held: bool) -> None:
    """Then its name's losses no longer count for another node either."""
    watch = Watch()
    watch.lose(6)
    watch.look(lived)
    assert (watch.come("bad") in watch.held()) == held


def test_a_minute_is_long_enough_when_the_session_ends() -> None:
    for lived, seconds in ((59.9, 8), (60.0, 0)):
        watch = Watch()
        identity = watch.lose(2)
        watch.now += lived
        watch.go(identity)
        assert watch.length(watch.come("bad")) == seconds


def test_draining_is_no_loss() -> None:
    watch = Watch()
    for _ in range(5):
        identity = watch.come("n")
        watch.nodes[identity] = NodeInfo(identity, draining=True)
        watch.look(3.0)
        watch.go(identity)
    assert watch.length(watch.come("n")) == 0


def test_sessions_that_have_not_expired_yet() -> None:
    """Once one loss was seen, the older sessions of the same name count, because the broker has not ended them yet."""
    watch = Watch()
    first = watch.come("bad")
    watch.look(2.0)
    second = watch.come("bad")
    watch.look(2.0)
    third = watch.come("bad")
    assert watch.held() == set()
    watch.go(first)
    assert watch.held() == {third}
    assert second not in watch.held()
    assert watch.length(third) == 4


@pytest.mark.parametrize("losses, seconds", [(1, 4), (2, 16), (3, 60)])
def test_no_more_of_them_count_than_losses_were_seen(losses: int, seconds: float) -> None:
    """So a loss in a group of young nodes of one name holds none of them back for long."""
    watch = Watch()
    for _ in range(losses):
        watch.go(watch.come("bad"))
    identities = [watch.come("bad") for _ in range(10)]
    assert watch.length(identities[-1]) == seconds


def test_a_session_that_drains_is_not_lost() -> None:
    """An older session of the same name that drains is alive."""
    watch = Watch()
    watch.go(watch.come("bad"))
    identity = watch.come("bad")
    watch.nodes[identity] = NodeInfo(identity, since=watch.now, draining=True)
    watch.look()
    assert watch.length(watch.come("bad")) == 0


def test_healthy_nodes_of_one_name() -> None:
    """Nodes that share a name are not held back while none of them is lost, however many began together."""
    watch = Watch("same", "same", "same")
    for _ in range(7):
        watch.come("same")
        assert watch.held() == set()
    watch.look(16.0)
    watch.come("same")
    assert watch.held() == set()


def test_healthy_nodes_of_one_name_that_have_lasted() -> None:
    """When one of them crashes, no other is held back, and neither is its next session."""
    watch = Watch(*["same"] * 10)
    watch.look(60.0)
    watch.go("same.3")
    watch.come("same")
    assert watch.held() == set()


@pytest.mark.parametrize("earlier, held", [(59.9, True), (60.0, False)])
def test_namesakes_that_began_a_minute_earlier_are_alive(earlier: float, held: bool) -> None:
    """The record says when a session began, however short the time is since it was first seen."""
    watch = Watch("good")
    watch.nodes["same.0"] = NodeInfo("same.0", since=watch.now - earlier)
    watch.look()
    watch.go(watch.come("same"))
    assert (watch.come("same") in watch.held()) == held


def test_if_all_are_on_probation_none_is() -> None:
    """When every node crashes again and again, the tasks must run somewhere."""
    watch = Watch()
    watch.lose(3)
    assert watch.held()
    watch.go("good.1")
    assert watch.held() == set()
    identity = watch.come("frozen")
    watch.nodes[identity] = NodeInfo(identity, frozen=True)
    watch.look()
    assert watch.held() == set()


def test_a_new_view_keeps_what_is_known_of_names() -> None:
    watch = Watch()
    watch.go(watch.lose(2))
    watch.probation.forget_nodes()
    watch.look()
    assert watch.length(watch.come("bad")) == 8


def test_nodes_that_are_missing_in_a_new_view_are_no_losses() -> None:
    """Nobody has seen how they left."""
    watch = Watch()
    for _ in range(5):
        identity = watch.come("n")
        del watch.nodes[identity]
        watch.probation.forget_nodes()
        watch.look(3.0)
    assert watch.length(watch.come("n")) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["come", "go", "drain"]), st.floats(0, 100)), max_size=40
    )
)
def test_no_node_is_held_back_for_long(steps: list[tuple[str, str, float]]) -> None:
    """Whatever happens: some node that can take tasks is not held back, none is after a minute, and none before its
    name has lost a session, and has lost or shares one more."""
    watch = Watch()
    came: dict[str, float] = {"good.1": watch.now}
    losses: dict[str, int] = {}
    for name, step, after in steps:
        watch.look(after)
        present = [identity for identity in watch.nodes if identity.startswith(f"{name}.")]
        if step == "come":
            came[watch.come(name)] = watch.now
        elif present and step == "go":
            losses[name] = losses.get(name, 0) + (not watch.nodes[present[0]].draining)
            watch.go(present[0])
        elif present:
            watch.nodes[present[0]] = NodeInfo(present[0], draining=True)
            watch.look()
        held = watch.held()
        assert held <= watch.nodes.keys()
        assert not held or any(not node.draining for identity, node in watch.nodes.items() if identity not in held)
        for identity in held:
            name = identity.partition(".")[0]
            assert watch.now - came[identity] < 60.0
            assert losses.get(name, 0)
            assert losses[name] + sum(other.startswith(f"{name}.") for other in watch.nodes) > 2


def test_the_oldest_node_announces_what_others_cannot_have_seen() -> None:
    """Only names with two losses or more, and no more than matters, so that the record changes seldom."""
    watch = Watch("good", "other")
    watch.lose(1)
    assert watch.probation.losing("good.1") == frozenset()
    watch.lose(1)
    assert dict(watch.probation.losing("good.1")) == {"bad": 2}
    assert watch.probation.losing("other.2") == frozenset()
    watch.lose(10)
    assert dict(watch.probation.losing("good.1")) == {"bad": 6}
    assert watch.probation.most_losses == 12
    watch.look(600.0)
    assert watch.probation.losing("good.1") == frozenset()
    assert Probation().losing("good.1") == frozenset()


def test_no_more_names_are_announced_than_a_record_holds() -> None:
    watch = Watch("good")
    for number in range(MAX_LOSING + 1):
        for _ in range(3 if number else 2):
            watch.go(watch.come(f"bad{number}"))
    announced = dict(watch.probation.losing("good.1"))
    assert announced == {f"bad{number}": 3 for number in range(1, MAX_LOSING + 1)}
    NodeInfo("good.1", losing=frozenset(announced.items())).encode()


def test_a_node_that_joins_learns_what_is_announced() -> None:
    """It believes the highest number, and what it has seen itself."""
    watch = Watch("good")
    identity = watch.lose(3)
    watch.nodes["old.0"] = NodeInfo("old.0", losing=frozenset({("bad", 2), ("worse", 5)}))
    watch.nodes["odd.0"] = NodeInfo("odd.0", losing=frozenset({("bad", 1), ("worse", 4)}))
    watch.look()
    assert dict(watch.probation.losing("odd.0")) == {"bad": 3}  # not new here
    joiner = Probation()
    joiner.look(watch.nodes, watch.now)
    assert dict(joiner.losing("odd.0")) == {"bad": 2, "worse": 5}
    assert identity in joiner.held_back(watch.now)
