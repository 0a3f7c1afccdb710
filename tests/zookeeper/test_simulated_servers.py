"""The simulated ensemble when servers fail: each test repeats an observation on real servers."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from metafora_trio_zookeeper._connection import Create, Delete, ErrorCode, SetData
from tests.support.zookeeper.simulated import CHANGED, CONNECTED, CREATED, DISCONNECTED, EXPIRED, Lab

LOSS = ErrorCode.CONNECTION_LOSS


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_an_isolated_follower_answers_reads_and_not_writes(lab: Lab) -> None:
    """So its client may believe in a session that the leader has ended: neither pings nor reads prove it alive."""
    follower, other = lab.followers()
    peer, witness = lab.peer(4.0, at=follower), lab.peer(at=other)
    peer.transact(Create("/e", ephemeral=True))
    lab.zookeeper.isolate_server(follower)
    assert peer.ask(peer.connection.children, "/") == ["e"]
    lab.until(lambda: "/e" not in lab.zookeeper.paths())
    assert peer.connection.state is CONNECTED
    assert witness.ask(witness.connection.children, "/") == []
    assert peer.ask(peer.connection.children, "/") == ["e"]
    answers = peer.send(peer.connection.heartbeat, "/e", 1.0)
    late = peer.send(peer.connection.children, "/")
    lab.world.run_for(0.1)
    assert (answers, late) == ([], [])  # a read waits for the write before it
    lab.until_state(peer, DISCONNECTED)
    assert lab.world.now < 5.2  # the follower notices after 10 ticks
    lab.until_state(peer, EXPIRED)


@pytest.mark.parametrize("timeout, lost", [(1.0, True), (4.0, False)])
def test_how_long_a_client_of_an_isolated_follower_believes_in_its_session(timeout: float, lost: bool) -> None:
    """As measured with T=1 s: gone after 0.8 to 1.1 s, noticed after 2 s, when the follower gives up (10 ticks).

    With a longer T there is time to move to another server."""
    for seed in range(10):
        with Lab(seed=seed, tick=0.2) as lab:
            peer = lab.peer(timeout, at=lab.followers()[0])
            lab.world.run_for(2 + seed * 0.03)
            lab.zookeeper.isolate_server(lab.followers()[0])
            start = lab.world.now
            assert 1.99 < lab.until_state(peer, DISCONNECTED) < 2.05
            lab.until_state(peer, CONNECTED, EXPIRED)
            ends = [entry.committed - start for entry in lab.zookeeper.log if entry.ended]
            assert [0.65 < end < 1.3 for end in ends] == [True] * lost


def test_a_client_of_an_isolated_leader_notices_in_time(lab: Lab) -> None:
    """Its session lives longer than elsewhere, because the next leader gives every session a full timeout."""
    leader = lab.zookeeper.leader
    assert leader is not None
    peer = lab.peer(4.0, at=leader)
    lab.world.run_for(2)
    lab.zookeeper.isolate_server(leader)
    lab.zookeeper.cut(peer.process, lab.followers()[0])
    lab.zookeeper.cut(peer.process, lab.followers()[1])
    noticed = lab.until_state(peer, DISCONNECTED)
    assert 4.9 < noticed < 5.1
    assert 4.3 < lab.until(lambda: lab.zookeeper.sessions[1].ended) < 5.2


def test_an_isolated_follower_that_is_linked_again_in_time(lab: Lab) -> None:
    """Its clients notice nothing, and their requests are carried out."""
    follower, other = lab.followers()
    peer, witness = lab.peer(10.0, at=follower), lab.peer(10.0, at=other)
    peer.ask(peer.connection.add_watch, "/")
    numbers = peer.connection.number, witness.connection.number
    lab.zookeeper.isolate_server(follower)
    lab.zookeeper.isolate_server(follower)
    answers = peer.send(peer.connection.transact, [Create("/a")])
    witness.transact(Create("/b"))
    lab.world.run_for(3)
    assert answers == []
    lab.zookeeper.heal_servers()
    lab.until(lambda: answers, within=0.1)
    assert peer.log[-3:] == [(CREATED, "/b"), (CREATED, "/a"), ("/a",)]
    lab.world.run_for(10)
    assert (peer.connection.number, witness.connection.number) == numbers
    assert not any(session.ended for session in lab.zookeeper.sessions.values())


@pytest.mark.parametrize("who", ["follower", "leader"])
def test_a_follower_reports_later_what_it_could_not_report(lab: Lab, who: str) -> None:
    """So the timeout counts from the report, not from when the client's message arrived."""
    leader, follower = lab.zookeeper.leader, lab.followers()[0]
    assert leader is not None
    peer = lab.peer(2.0, at=follower)
    lab.zookeeper.isolate_server(follower if who == "follower" else leader)
    start = lab.world.now
    peer.ask(peer.connection.children, "/")
    lab.world.kill(peer.process)
    lab.world.run_for(1.5)
    lab.zookeeper.heal_servers()
    lab.until(lambda: lab.zookeeper.sessions[1].ended)
    assert 3.5 < lab.world.now - start <= 4.25


def test_an_isolated_follower_that_is_linked_again_too_late(lab: Lab) -> None:
    follower = lab.followers()[0]
    peer = lab.peer(10.0, at=follower)
    lab.zookeeper.isolate_server(follower)
    peer.send(peer.connection.transact, [Create("/a")])
    lab.until_state(peer, DISCONNECTED)
    lab.zookeeper.heal_servers()
    lab.world.run_for(1)
    assert "/a" not in lab.zookeeper.paths()
    lab.move(peer, follower)
    assert peer.works()


def test_no_session_is_made_at_an_isolated_follower(lab: Lab) -> None:
    follower = lab.followers()[0]
    peer = lab.peer(10.0, at=lab.followers()[1])
    lab.zookeeper.isolate_server(follower)
    for server in lab.zookeeper.servers:
        if server != follower:
            lab.zookeeper.cut(peer.process, server)
    peer.process.call(peer.connection.drop)
    lab.world.run_for(4)
    assert peer.connection.state is DISCONNECTED
    lab.until(lambda: lab.zookeeper.servers_of(peer.process))
    lab.world.run_for(0.01)
    lab.zookeeper.kill_server(follower)
    lab.world.run_for(0.002)
    assert lab.zookeeper.servers_of(peer.process) == []
    lab.zookeeper.heal()
    lab.until_state(peer, CONNECTED)
    assert not lab.zookeeper.sessions[1].ended


def test_a_leader_without_quorum_answers_reads_and_not_writes(lab: Lab) -> None:
    leader = lab.zookeeper.leader
    assert leader is not None
    peer = lab.peer(10.0, at=leader)
    peer.transact(Create("/e", ephemeral=True))
    lab.zookeeper.isolate_server(leader)
    answers = peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(3)
    assert answers == []
    peer.process.call(peer.connection.drop)
    lab.until(lambda: lab.zookeeper.leader != leader)
    lab.until(lambda: lab.zookeeper.leader is not None)
    assert lab.zookeeper.leader != leader
    lab.until_state(peer, CONNECTED)
    assert lab.zookeeper.paths() == {"/": 0, "/e": 1}  # the write is gone
    lab.zookeeper.heal_servers()
    lab.world.run_for(1)
    lab.move(peer, leader)
    assert peer.works()


def test_a_leader_whose_quorum_comes_back_in_time(lab: Lab) -> None:
    leader = lab.zookeeper.leader
    assert leader is not None
    peer = lab.peer(10.0, at=leader)
    lab.zookeeper.isolate_server(leader)
    answers = peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(3)
    lab.zookeeper.heal_servers()
    lab.until(lambda: answers, within=0.1)
    lab.world.run_for(10)
    assert (lab.zookeeper.leader, peer.connection.state) == (leader, CONNECTED)
    assert "/a" in lab.zookeeper.paths()


def test_what_waits_for_a_quorum_is_not_overtaken(lab: Lab) -> None:
    """Not even while a server that will complete the quorum is starting."""
    leader, (first, second) = lab.zookeeper.leader, lab.followers()
    assert leader is not None
    peer = lab.peer(10.0, at=leader)
    lab.zookeeper.kill_server(first)
    lab.world.run_for(1)
    lab.zookeeper.isolate_server(second)
    one = peer.send(peer.connection.transact, [Create("/a")])
    lab.world.run_for(0.1)
    lab.zookeeper.start_server(first)
    other = peer.send(peer.connection.transact, [Create("/a/b")])
    lab.until(lambda: one and other, within=0.4)
    assert peer.log[-2:] == [("/a",), ("/a/b",)]


def test_sessions_that_a_leader_could_not_end_without_quorum_end_when_it_has_one(lab: Lab) -> None:
    """Their clients' messages reached the servers, but not the leader."""
    leader = lab.zookeeper.leader
    assert leader is not None
    peer = lab.peer(2.0, at=lab.followers()[0])
    lab.zookeeper.isolate_server(leader)
    lab.world.run_for(4)
    assert not lab.zookeeper.sessions[1].ended
    lab.zookeeper.heal_servers()
    assert lab.zookeeper.sessions[1].ended
    lab.until_state(peer, EXPIRED)


def test_a_session_that_ends_while_its_client_is_being_welcomed_is_not_kept_open(lab: Lab) -> None:
    """Once the quorum is back, a write, the client's return and the end of its session are decided in one instant."""
    leader = lab.zookeeper.leader
    assert leader is not None
    writer, peer = lab.peer(at=leader), lab.peer(2.0, at=leader)
    session = lab.zookeeper.sessions[peer.connection.session_id]
    lab.zookeeper.cut(peer.process)
    lab.zookeeper.isolate_server(leader)
    lab.world.run_for(0.1)
    lab.world.run_for(session.deadline - lab.world.now - 0.4)
    writer.send(writer.connection.transact, [SetData("/", b"")])
    lab.zookeeper.heal(peer.process, leader)
    lab.until(lambda: lab.zookeeper.servers_of(peer.process) == [leader])
    lab.world.run_for(session.deadline - lab.world.now)
    assert (lab.zookeeper.servers_of(peer.process), peer.connection.state) == ([leader], DISCONNECTED)
    lab.zookeeper.heal_servers()
    lab.zookeeper.heal(peer.process)
    lab.world.run_for(1.0)
    assert (session.ended, peer.connection.state) == (True, EXPIRED)


def test_after_a_change_of_leader_sessions_live_on_with_full_timeouts(lab: Lab) -> None:
    peer, dead = lab.peer(4.0), lab.peer(4.0)
    for each, path in ((peer, "/a"), (dead, "/b")):
        each.transact(Create(path, ephemeral=True))
    lab.world.kill(dead.process)
    lab.world.run_for(2.5)
    before = lab.zookeeper.log[-1].zxid
    lab.zookeeper.elect(out=0.5)
    lab.zookeeper.elect()
    assert lab.zookeeper.leader is None
    lab.until_state(peer, DISCONNECTED)
    lab.until_state(peer, CONNECTED)
    elected = lab.world.now
    lab.until(lambda: "/b" not in lab.zookeeper.paths())
    assert 3.9 < lab.world.now - elected < 4.6
    assert "/a" in lab.zookeeper.paths()
    assert lab.zookeeper.log[-1].zxid >> 32 > before >> 32


def test_requests_on_their_way_to_a_leader_that_stepped_down_may_take_effect() -> None:
    """Only the oldest ones may: never a write without those before it. Their replies are lost."""
    seen = set[tuple[bool, bool]]()
    for seed in range(30):
        with Lab(seed=seed) as lab:
            peer = lab.peer(at=lab.followers()[0])
            answers = peer.send(peer.connection.transact, [Create("/a")])
            answers += peer.send(peer.connection.transact, [Create("/b")])
            lab.world.run_for(0.0011)
            number = peer.connection.number
            lab.zookeeper.elect()
            lab.until(lambda: peer.connection.number > number)  # noqa: B023  # waited for at once
            assert peer.log[-4:-1] == [LOSS, LOSS, DISCONNECTED]
            paths = lab.zookeeper.paths()
            seen.add(("/a" in paths, "/b" in paths))
    assert seen == {(False, False), (True, False), (True, True)}


def test_killed_servers(lab: Lab) -> None:
    first, second = lab.followers()
    peer = lab.peer(at=first)
    lab.zookeeper.kill_server(first)
    lab.zookeeper.kill_server(first)
    lab.until_state(peer, DISCONNECTED)
    lab.until_state(peer, CONNECTED)
    assert peer.transact(Create("/a")) == ("/a",)
    lab.zookeeper.kill_server(second)
    lab.until(lambda: lab.zookeeper.leader is None)
    lab.world.run_for(10)
    assert lab.zookeeper.leader is None
    assert peer.connection.state is DISCONNECTED
    lab.zookeeper.start_server(first)
    lab.zookeeper.start_server(first)
    lab.until(lambda: lab.zookeeper.leader is not None, within=0.7)
    lab.until_state(peer, CONNECTED)
    assert peer.works()
    lab.zookeeper.start_server(second)
    lab.world.run_for(1)
    lab.move(peer, second)
    assert peer.ask(peer.connection.children, "/") == ["a"]


def test_a_killed_leader_is_replaced(lab: Lab) -> None:
    leader = lab.zookeeper.leader
    assert leader is not None
    peer = lab.peer(at=leader)
    lab.zookeeper.kill_server(leader)
    assert lab.until(lambda: lab.zookeeper.leader is not None) <= 0.6
    lab.until_state(peer, CONNECTED)
    assert not lab.zookeeper.sessions[1].ended
    assert peer.works()


def test_a_server_that_lags_shows_the_past(lab: Lab) -> None:
    follower, other = lab.followers()
    peer, writer = lab.peer(at=other), lab.peer(at=other)
    peer.ask(peer.connection.add_watch, "/")
    lab.zookeeper.lag_server(follower, 1.0)
    writer.transact(Create("/a"))
    peer.log.clear()
    lab.move(peer, follower)
    # The client has seen the event of /a, but no later reply, so the server accepts it.
    assert peer.ask(peer.connection.children, "/") == []
    assert 0.9 < lab.until(lambda: peer.ask(peer.connection.children, "/") == ["a"], within=2)
    # Its own writes are applied late, but after everything before them.
    writer.transact(Create("/b"))
    answers = peer.send(peer.connection.transact, [Create("/c")])
    assert 1.0 <= lab.until(lambda: answers)
    assert peer.ask(peer.connection.children, "/") == ["a", "b", "c"]
    lab.zookeeper.lag_server(follower, 0.0)
    writer.transact(Create("/d"))
    assert peer.ask(peer.connection.children, "/") == ["a", "b", "c", "d"]


def test_a_server_that_is_behind_what_the_client_has_seen_refuses_it(lab: Lab) -> None:
    follower, other = lab.followers()
    peer = lab.peer(at=other)
    lab.zookeeper.lag_server(follower, 1.0)
    peer.transact(Create("/a"))
    for server in lab.zookeeper.servers:
        lab.zookeeper.cut(peer.process, server)
    lab.zookeeper.heal(peer.process, follower)
    peer.process.call(peer.connection.drop)
    lab.until_state(peer, DISCONNECTED)
    assert lab.until_state(peer, CONNECTED) > 0.9
    assert peer.ask(peer.connection.children, "/") == ["a"]


def test_a_lag_that_grows_holds_back_what_is_under_way(lab: Lab) -> None:
    follower, other = lab.followers()
    peer, writer = lab.peer(at=follower), lab.peer(at=other)
    peer.ask(peer.connection.add_watch, "/")
    answers = writer.send(writer.connection.transact, [SetData("/", b"1")])
    lab.until(lambda: answers)
    lab.zookeeper.lag_server(follower, 0.5)
    writer.transact(SetData("/", b"2"))
    lab.zookeeper.lag_server(follower, 1.0)
    start = lab.world.now
    lab.until(lambda: peer.log[-2:] == [(CHANGED, "/")] * 2)
    assert lab.world.now - start > 0.9


def test_it_recovers_from_all_faults_at_once() -> None:
    """After random faults, all servers have the same tree, and every live session can write."""
    for seed in range(25):
        with Lab(seed=seed) as lab:
            world, zookeeper = lab.world, lab.zookeeper
            peers = [lab.peer(4.0) for _ in range(4)]
            rng = random.Random(seed)
            for _ in range(60):
                peer, server = rng.choice(peers), rng.randint(1, 3)
                match rng.randrange(12):
                    case 0:
                        zookeeper.cut(peer.process, rng.choice((None, server)), rng.choice(("both", "to", "from")))
                    case 1:
                        zookeeper.heal(rng.choice((None, peer.process)))
                    case 2:
                        zookeeper.isolate_server(server)
                    case 3:
                        zookeeper.kill_server(server)
                    case 4:
                        zookeeper.start_server(server)
                    case 5:
                        zookeeper.lag_server(server, rng.choice((0.0, 0.3, 2.0)))
                    case 6:
                        zookeeper.elect()
                    case 7:
                        zookeeper.heal_servers()
                    case 8:
                        zookeeper.lose_replies(peer.process)
                    case 9:
                        (world.freeze if rng.random() < 0.5 else world.thaw)(peer.process)
                    case _:
                        name = f"/{rng.randrange(5)}"
                        peer.send(peer.connection.transact, [rng.choice((Create(name, ephemeral=True), Delete(name)))])
                world.run_for(rng.choice((0.0, 0.001, 0.1, 1.0)))
            zookeeper.heal_servers()
            zookeeper.heal()
            for peer in peers:
                world.thaw(peer.process)
            world.run_for(20)
            for peer in peers:
                ended = zookeeper.sessions[peer.connection.session_id].ended
                assert peer.connection.state is (EXPIRED if ended else CONNECTED)
                assert ended or peer.works()
            world.run_for(0.1)
            assert all(server.tree == zookeeper.tree for server in zookeeper.servers.values())
            owners = {owner for owner in zookeeper.paths().values() if owner}
            assert not any(zookeeper.sessions[owner].ended for owner in owners)
