"""The simulated ensemble when links fail: each test repeats an observation on real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metafora_trio_zookeeper._connection import Create, ErrorCode
from tests.support.zookeeper.simulated import CONNECTED, CREATED, DISCONNECTED, EXPIRED, Lab

LOSS = ErrorCode.CONNECTION_LOSS


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.mark.parametrize("loses_events", [True, False])
def test_a_reply_is_lost_after_the_write_took_effect(loses_events: bool) -> None:
    seen = set[bool]()
    for seed in range(20):
        with Lab(seed=seed) as lab:
            peer = lab.peer()
            peer.ask(peer.connection.add_watch, "/")
            peer.log.clear()
            lab.zookeeper.lose_replies(peer.process)
            peer.ask(peer.connection.heartbeat, "/", 1.0)  # changes nothing, so its reply is not lost
            peer.send(peer.connection.transact, [Create("/a")])
            lab.until(lambda: peer.connection.number == 2)  # noqa: B023  # waited for at once
            events = [(CREATED, "/a")] if (CREATED, "/a") in peer.log else []
            assert peer.log == [None, *events, LOSS, DISCONNECTED, CONNECTED]
            assert "/a" in lab.zookeeper.paths()
            assert peer.transact(Create("/b")) == ("/b",)
            seen.add(not events)
    assert loses_events in seen


def test_messages_sent_before_a_cut_arrive_after_it(lab: Lab) -> None:
    """TCP retransmits them, if both ends stay open long enough."""
    peer = lab.peer()
    lab.zookeeper.cut(peer.process)
    answers = peer.send(peer.connection.transact, [Create("/a")])
    more = peer.send(peer.connection.transact, [Create("/b")])
    lab.world.run_for(0.5)
    assert "/a" not in lab.zookeeper.paths()
    lab.zookeeper.heal(peer.process)
    lab.until(lambda: answers and more, within=0.01)
    assert peer.log == [CONNECTED, ("/a",), ("/b",)]


def test_a_reply_that_was_held_still_comes(lab: Lab) -> None:
    peer = lab.peer()
    lab.zookeeper.cut(peer.process, way="from")
    answers = peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(0.5)
    assert answers == []
    lab.zookeeper.heal(peer.process)
    lab.until(lambda: answers, within=0.01)
    assert peer.log == [CONNECTED, ("/a",)]


def test_half_open_link(lab: Lab) -> None:
    """Requests arrive and take effect, but no reply arrives; each attempt to connect keeps the session alive."""
    peer = lab.peer(4.0)
    peer.transact(Create("/e", ephemeral=True))
    lab.zookeeper.cut(peer.process, way="from")
    answers = peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(0.1)
    assert "/a" in lab.zookeeper.paths()
    assert answers == []
    lab.until_state(peer, DISCONNECTED)
    lab.world.run_for(10)
    assert "/e" in lab.zookeeper.paths()
    assert peer.log[-2:] == [LOSS, DISCONNECTED]
    lab.zookeeper.heal()
    lab.until_state(peer, CONNECTED)


def test_a_link_that_is_cut_towards_the_servers(lab: Lab) -> None:
    """Only messages from the servers still arrive, and the session ends."""
    peer, other = lab.peer(), lab.peer()
    peer.ask(peer.connection.add_watch, "/")
    lab.zookeeper.cut(peer.process, way="to")
    other.transact(Create("/a"))
    assert peer.log[-1] == (CREATED, "/a")
    lab.until(lambda: lab.zookeeper.sessions[1].ended)
    assert peer.connection.state is DISCONNECTED


def test_latency(lab: Lab) -> None:
    peer = lab.peer()
    lab.zookeeper.delay(peer.process, 0.2)
    answers = peer.send(peer.connection.children, "/")
    assert 0.4 <= lab.until(lambda: answers) < 0.41
    slow = peer.send(peer.connection.children, "/")
    lab.zookeeper.delay(peer.process, 0.001)
    quick = peer.send(peer.connection.children, "/")
    lab.until(lambda: quick)
    assert slow  # the order is kept, even when the latency changes
    lab.zookeeper.delay(peer.process, 0.0)
    lab.world.run_for(1)
    now = lab.world.now
    for _ in range(3):
        assert peer.ask(peer.connection.children, "/") == []
    assert lab.world.now == now


def test_a_dead_process_receives_nothing_but_its_messages_arrive(lab: Lab) -> None:
    peer = lab.peer()
    peer.send(peer.connection.transact, [Create("/a")])
    lab.world.kill(peer.process)
    before = list(peer.log)
    lab.world.run_for(10)
    assert "/a" in lab.zookeeper.paths()
    assert peer.log == before
    assert lab.zookeeper.servers_of(peer.process) == []


def test_a_request_that_arrives_late_on_an_old_connection_is_refused(lab: Lab) -> None:
    """The session has moved to another server, so requests left in the old connection must not count."""
    peer = lab.peer(at=2)
    lab.zookeeper.cut(peer.process, 2)
    answers = peer.send(peer.connection.transact, [Create("/a")])
    lab.drop(peer)
    assert [str(answer) for answer in answers] == ["connection loss"]
    before = len(lab.zookeeper.log)
    lab.zookeeper.heal()
    lab.world.run_for(1)
    assert len(lab.zookeeper.log) == before + 1  # it arrived
    assert "/a" not in lab.zookeeper.paths()
    assert peer.works()


def test_a_slow_request_on_an_old_connection_is_refused(lab: Lab) -> None:
    """It is refused even while the server does not know yet that the client has dropped the connection."""
    peer = lab.peer(at=2)
    lab.zookeeper.delay(peer.process, 0.5, 2)
    peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(0.3)
    lab.drop(peer)
    lab.world.run_for(2)
    assert "/a" not in lab.zookeeper.paths()
    assert peer.works()


def test_a_new_connection_to_a_server_ends_the_old_one_there() -> None:
    with Lab(servers=1) as lab:
        peer = lab.peer()
        lab.zookeeper.delay(peer.process, 0.5)
        peer.send(peer.connection.transact, [Create("/a")])
        lab.world.run_for(0.1)
        lab.zookeeper.delay(peer.process, 0.001)
        lab.drop(peer)
        lab.world.run_for(1)
        assert "/a" not in lab.zookeeper.paths()


def test_a_request_that_arrives_late_may_count_until_the_session_moves(lab: Lab) -> None:
    """The client has dropped the connection, but the server has not."""
    peer = lab.peer(10.0, at=2)
    for server in lab.zookeeper.servers:
        lab.zookeeper.cut(peer.process, server)
    peer.send(peer.connection.transact, [Create("/a")])
    peer.process.call(peer.connection.drop)
    lab.until_state(peer, DISCONNECTED)
    lab.zookeeper.heal(peer.process, 2)
    lab.until(lambda: "/a" in lab.zookeeper.paths(), within=0.01)


def test_a_late_request_of_an_ended_session_is_refused(lab: Lab) -> None:
    peer = lab.peer(2.0, at=2)
    lab.zookeeper.cut(peer.process)
    peer.send(peer.connection.transact, [Create("/a")])
    lab.world.freeze(peer.process)
    lab.until(lambda: lab.zookeeper.sessions[1].ended)
    lab.zookeeper.heal()
    lab.world.run_for(1)
    assert "/a" not in lab.zookeeper.paths()


def test_a_session_that_ends_while_its_write_is_under_way(lab: Lab) -> None:
    peer = lab.peer(at=lab.followers()[0])
    answers = peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(0.0011)
    lab.zookeeper.expire(1)
    lab.until(lambda: answers)
    assert [str(answer) for answer in answers] == ["connection loss"]
    assert lab.zookeeper.paths() == {"/": 0}
    lab.until_state(peer, EXPIRED)
