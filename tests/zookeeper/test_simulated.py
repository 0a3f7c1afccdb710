"""The simulated ensemble: sessions and order. test_differential.py checks that it behaves like ZooKeeper."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
import trio

from metafora_trio.testing.simulation._world import World
from metafora_trio_zookeeper._connection import Check, Create, Delete, ErrorCode, ReadResult, Reply, SetData, Stat
from metafora_trio_zookeeper.testing.simulated import SimulatedZooKeeper
from tests.support.zookeeper.simulated import (
    CHANGED,
    CLOSED,
    CONNECTED,
    CREATED,
    DELETED,
    DISCONNECTED,
    EXPIRED,
    Deaf,
    Lab,
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_a_session(lab: Lab) -> None:
    peer = lab.peer(4.0)
    connection = peer.connection
    assert peer.log == [CONNECTED]
    assert (connection.session_timeout, connection.number, connection.session_id) == (4.0, 1, 1)
    assert connection.server in {"zk1:2181", "zk2:2181", "zk3:2181"}
    assert connection.connected_at == 0.0  # before the handshake was sent, not after the answer
    assert peer.transact(Create("/a", b"1"), Create("/a/e-", ephemeral=True, sequential=True)) == (
        "/a",
        "/a/e-0000000000",
    )
    now_ms = round(lab.world.now * 1000)
    found, missing = peer.ask(connection.read, ["/a", "/b"])
    assert isinstance(found, ReadResult)
    assert (found.data, found.version, found.ephemeral_owner, missing) == (b"1", 0, 0, None)
    assert 0 <= now_ms - found.mtime_ms <= 5
    assert peer.ask(connection.children, "/a") == ["e-0000000000"]
    assert lab.zookeeper.paths() == {"/": 0, "/a": 0, "/a/e-0000000000": 1}
    peer.leave()
    lab.until(lambda: peer.process.ended, within=0.1)
    assert peer.log[-1] is CLOSED
    assert connection.state is CLOSED
    assert lab.zookeeper.paths() == {"/": 0, "/a": 0}


def test_the_requested_timeout_is_clamped_to_2_to_20_ticks(lab: Lab) -> None:
    assert lab.peer(0.1).connection.session_timeout == 1.0
    assert lab.peer(60.0).connection.session_timeout == 10.0


def test_each_server_clamps_it_to_limits_of_its_own() -> None:
    """A session takes the timeout of the server that it moves to, shorter or longer."""
    with Lab() as lab:
        lab.zookeeper.limit_timeout(2, 3.0)
        lab.zookeeper.limit_timeout(3, 5.0)
        peer = lab.peer(6.0)
        granted = {}
        for server in (1, 2, 3, 1):
            lab.move(peer, server)
            granted[server] = peer.connection.session_timeout
        assert granted == {1: 6.0, 2: 3.0, 3: 5.0}
        assert len(lab.zookeeper.sessions) == 1


@pytest.mark.parametrize("first, then", [(1, 2), (2, 1)])
def test_a_session_that_moves_expires_by_the_timeout_of_its_last_server(first: int, then: int) -> None:
    with Lab(tick=0.1) as lab:
        lab.zookeeper.limit_timeout(2, 1.0)
        peer = lab.peer(2.0, at=first)
        lab.world.run_for(1.0)
        lab.move(peer, then)
        lab.world.run_for(0.2)
        lab.world.kill(peer.process)
        (session,) = lab.zookeeper.sessions.values()
        took = lab.until(lambda: session.ended)
        granted = {1: 2.0, 2: 1.0}[then]
        assert granted * 2 / 3 - 0.2 < took < granted + 0.2


def test_a_new_leader_restarts_a_session_with_the_timeout_it_was_created_with() -> None:
    """Only that one is in its transactions."""
    with Lab(tick=0.1) as lab:
        for server in (1, 2, 3):
            lab.zookeeper.limit_timeout(server, 1.0)
        peer = lab.peer(2.0)
        for server in (1, 2, 3):
            lab.zookeeper.limit_timeout(server, 2.0)
        lab.drop(peer)
        assert peer.connection.session_timeout == 2.0
        lab.zookeeper.cut(peer.process)
        lab.zookeeper.elect(0.3)
        (session,) = lab.zookeeper.sessions.values()
        assert 1.3 <= lab.until(lambda: session.ended) <= 1.41


def test_a_heartbeat_is_proof_where_its_reply_is_read(lab: Lab) -> None:
    peer = lab.peer()
    connection = peer.connection
    assert connection.proof == -math.inf
    assert peer.ask(connection.heartbeat, "/", 5.0) is None
    assert peer.ask(connection.heartbeat, "/nothing", 7.0) is ErrorCode.NO_NODE
    assert connection.proof == 5.0


def test_events_and_replies_come_in_one_order(lab: Lab) -> None:
    """An event comes before the reply to its write, and every session sees the same order."""
    one, other = lab.peer(), lab.peer()
    for peer in (one, other):
        peer.ask(peer.connection.add_watch, "/")
        peer.log.clear()
    one.send(one.connection.transact, [Create("/a"), Create("/a/b")])
    one.send(one.connection.children, "/a")
    one.send(one.connection.transact, [SetData("/a", b"x"), Delete("/a/b")])
    lab.world.run_for(0.1)
    events = [(CREATED, "/a"), (CREATED, "/a/b"), (CHANGED, "/a"), (DELETED, "/a/b")]
    assert one.log == [*events[:2], ("/a", "/a/b"), ["b"], *events[2:], (None, None)]
    assert other.log == events


def test_a_refused_transaction_changes_nothing_and_says_where(lab: Lab) -> None:
    peer = lab.peer()
    answers = peer.send(peer.connection.transact, [Create("/a"), Check("/b"), Create("/c")])
    lab.world.run_for(0.1)
    (error,) = answers
    assert not isinstance(error, Reply)
    assert (error.code, error.index) == (ErrorCode.NO_NODE, 1)
    assert lab.zookeeper.paths() == {"/": 0}
    assert peer.transact(Delete("/")) is ErrorCode.OTHER


def test_the_end_of_a_session_is_one_transaction_whose_events_come_one_by_one(lab: Lab) -> None:
    one, other = lab.peer(), lab.peer()
    paths = {"/a", "/b", "/c"}
    one.transact(*(Create(path, ephemeral=True) for path in sorted(paths)))
    other.ask(other.connection.add_watch, "/")
    other.log.clear()
    before = len(lab.zookeeper.log)
    one.leave()
    lab.until(lambda: other.log)
    assert [event for event, _ in other.log] == [DELETED] * 3
    assert {path for _, path in other.log} == paths
    assert len(set(other.times[-3:])) == 1
    assert len(lab.zookeeper.log) == before + 1


def test_a_lookup_of_many(lab: Lab) -> None:
    peer = lab.peer()
    peer.transact(Create("/a", b"123"), Create("/b"))
    peer.transact(SetData("/b", b"1"))
    assert peer.ask(peer.connection.exists, ["/a", "/none", "/b"]) == (Stat(0, 3), None, Stat(1, 1))
    assert peer.ask(peer.connection.exists, []) == ()


def test_a_one_shot_watch_takes_the_place_of_a_recursive_one() -> None:
    """ZOOKEEPER-4466, as in 3.8.0: half of the recursive watch is silently lost."""
    with Lab() as lab:
        peer = lab.peer()
        peer.transact(Create("/a"))
        peer.ask(peer.connection.add_watch, "/a")
        peer.ask(peer.connection.stat, "/a", True)
        peer.log.clear()
        peer.transact(SetData("/a", b"1"))
        peer.transact(SetData("/a", b"2"))
        peer.transact(Create("/a/b"))
        peer.transact(Delete("/a/b"))
        assert [entry for entry in peer.log if entry[0] is not None and entry[0] != "/a/b"] == [
            (CHANGED, "/a"),
            (DELETED, "/a/b"),
        ]
        assert peer.ask(peer.connection.stat, "/b", False) is ErrorCode.NO_NODE


# ---- expiry; the bounds were measured on real servers


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.23, 0.31, 0.47])
def test_a_session_expires_within_a_tick_after_its_timeout(phase: float) -> None:
    """The leader expires it never early, and at most a tick late."""
    with Lab(servers=1, tick=0.5) as lab:
        peer = lab.peer(2.0)
        lab.world.run_for(phase)
        peer.transact(Create("/e", ephemeral=True))
        sent = lab.world.now - 0.0025  # the latency, and the time until it was applied
        lab.world.kill(peer.process)
        lab.until(lambda: "/e" not in lab.zookeeper.paths())
        assert 2.0 < lab.world.now - sent <= 2.501


@pytest.mark.parametrize("timeout", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("fault", ["kill", "freeze", "cut"])
def test_a_silent_process_is_given_up(timeout: float, fault: str) -> None:
    """Its last message may be a third of the timeout old, and a follower reports only every half tick."""
    for seed in range(10):
        with Lab(seed=seed, tick=0.2) as lab:
            peer = lab.peer(timeout, at=seed % 3 + 1)
            peer.transact(Create("/e", ephemeral=True))
            lab.world.run_for(3.0 + seed * 0.07)
            if fault == "cut":
                lab.zookeeper.cut(peer.process)
            else:
                (lab.world.kill if fault == "kill" else lab.world.freeze)(peer.process)
            took = lab.until(lambda: "/e" not in lab.zookeeper.paths())
            assert timeout * 2 / 3 - 0.01 <= took <= timeout + 0.3


def test_an_idle_session_is_kept_alive_by_pings(lab: Lab) -> None:
    peer = lab.peer(1.0)
    lab.world.run_for(30)
    assert peer.log == [CONNECTED]
    assert not lab.zookeeper.sessions[1].ended


def test_a_cut_process_learns_of_it_before_its_session_ends(lab: Lab) -> None:
    peer = lab.peer(4.0)
    lab.zookeeper.cut(peer.process)
    noticed = lab.until_state(peer, DISCONNECTED)
    assert noticed <= 4.0 * 2 / 3
    ended = lab.until(lambda: lab.zookeeper.sessions[1].ended)
    assert noticed + ended > 4.0 * 2 / 3
    assert peer.connection.server == ""
    lab.zookeeper.heal(peer.process)
    lab.until_state(peer, EXPIRED)
    assert peer.log == [CONNECTED, DISCONNECTED, EXPIRED]
    lab.world.run_for(5)
    assert peer.ask(peer.connection.children, "/") is ErrorCode.SESSION_EXPIRED


def test_a_process_that_was_stopped_gets_the_sent_messages_and_then_its_expiry(lab: Lab) -> None:
    one, other = lab.peer(2.0), lab.peer()
    one.ask(one.connection.add_watch, "/")
    one.log.clear()
    lab.world.freeze(one.process)
    other.transact(Create("/a"))
    other.transact(Create("/b"))
    lab.until(lambda: lab.zookeeper.sessions[1].ended)
    lab.world.run_for(1)
    assert one.log == []
    lab.world.thaw(one.process)
    took = lab.until_state(one, EXPIRED)
    assert took < 0.2
    assert one.log == [(CREATED, "/a"), (CREATED, "/b"), DISCONNECTED, EXPIRED]


def test_a_session_can_be_expired_by_hand(lab: Lab) -> None:
    peer = lab.peer()
    peer.transact(Create("/e", ephemeral=True))
    lab.zookeeper.expire(1)
    lab.zookeeper.expire(1)
    assert lab.zookeeper.paths() == {"/": 0}
    assert lab.until_state(peer, EXPIRED) < 0.2


# ---- the connection


def test_requests_while_disconnected_are_refused_but_not_in_the_call(lab: Lab) -> None:
    peer = lab.peer()
    lab.zookeeper.cut(peer.process)
    lab.until_state(peer, DISCONNECTED)
    answers = peer.send(peer.connection.transact, [Create("/a")])
    assert answers == []
    assert peer.connection.backlog == 1
    lab.world.run_for(0)
    assert peer.log[-1] is ErrorCode.CONNECTION_LOSS
    lab.zookeeper.heal()
    lab.until_state(peer, CONNECTED)
    assert lab.zookeeper.paths() == {"/": 0}


def test_drop_takes_another_server_and_loses_the_watches(lab: Lab) -> None:
    peer = lab.peer()
    for number in range(1, 13):
        server = peer.connection.server
        peer.ask(peer.connection.add_watch, "/")
        answers = peer.send(peer.connection.children, "/")
        peer.process.call(peer.connection.drop)
        peer.process.call(peer.connection.drop)
        answers += peer.send(peer.connection.transact, [Create("/late")])
        lab.until(lambda: peer.connection.number > number)  # noqa: B023  # waited for at once
        assert peer.log[-4:] == [ErrorCode.CONNECTION_LOSS] * 2 + [DISCONNECTED, CONNECTED]
        assert peer.connection.server != server
    peer.transact(Create("/a"))
    assert (CREATED, "/a") not in peer.log
    assert "/late" not in lab.zookeeper.paths()
    assert peer.connection.session_id == 1


def test_closing_is_idempotent_and_bounded(lab: Lab) -> None:
    peer = lab.peer(4.0)
    peer.transact(Create("/e", ephemeral=True))
    lab.zookeeper.cut(peer.process)
    peer.leave()
    assert lab.until(lambda: peer.process.ended) <= 4.0
    assert peer.log[-1] is CLOSED
    lab.until(lambda: "/e" not in lab.zookeeper.paths())


def test_closing_continues_after_a_break(lab: Lab) -> None:
    """The session is closed on the next connection and need not expire."""
    peer = lab.peer(4.0)
    peer.transact(Create("/e", ephemeral=True))
    server = lab.zookeeper.servers_of(peer.process)[0]
    lab.zookeeper.cut(peer.process)
    lab.until_state(peer, DISCONNECTED)
    peer.leave()
    lab.world.run_for(0.1)
    lab.zookeeper.heal()
    assert lab.until(lambda: peer.process.ended) < 1.0
    assert "/e" not in lab.zookeeper.paths()
    assert server in lab.zookeeper.servers


def test_closing_while_a_connection_breaks(lab: Lab) -> None:
    peer = lab.peer()

    def leave() -> None:
        peer.connection.drop()
        peer.leave()

    peer.process.call(leave)
    lab.until(lambda: peer.process.ended)
    assert peer.log[-1] is CLOSED


@pytest.mark.parametrize("opened", [True, False])
def test_closing_a_connection_that_was_never_established(lab: Lab, opened: bool) -> None:
    """Two tasks close it at once, while a request is still to be refused. After that it tries no server."""
    log: list[object] = []

    async def live() -> None:
        connection = lab.zookeeper.connect(4.0)
        for server in lab.zookeeper.servers:
            lab.zookeeper.kill_server(server)
        if opened:
            await connection.open(Deaf())
        connection.transact([Create("/a")], log.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            nursery.start_soon(connection.aclose)
        assert connection.state is CLOSED
        await trio.sleep(5)

    process = lab.world.spawn("closing", live)
    lab.until(lambda: process.ended)
    assert process.outcome is not None
    process.outcome.unwrap()
    assert [str(entry) for entry in log] == ["connection loss"]


def test_a_connection_belongs_to_a_process_and_is_opened_once(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="process"):
        lab.zookeeper.connect(4.0)
    peer = lab.peer()
    failed: list[str] = []

    async def open_again() -> None:
        try:
            await peer.connection.open(peer)
        except RuntimeError as error:
            failed.append(str(error))

    lab.world.spawn("again", open_again)
    lab.world.run_for(0.1)
    assert failed == ["the connection was already opened"]


def test_the_same_seed_is_the_same_history() -> None:
    def history() -> list[object]:
        with World(3) as world:
            zookeeper = SimulatedZooKeeper(world, rng=random.Random(3))
            lab = Lab.__new__(Lab)
            lab.world, lab.zookeeper = world, zookeeper
            peers = [lab.peer() for _ in range(3)]
            for peer in peers:
                peer.ask(peer.connection.add_watch, "/")
                peer.transact(*(Create(f"/{n}-", ephemeral=True, sequential=True) for n in range(4)))
            zookeeper.elect()
            zookeeper.cut(peers[0].process)
            world.run_for(20)
            return [(peer.log, peer.times) for peer in peers]

    assert history() == history()
