"""Heartbeat on its own, second by second: when it sends, from when a heartbeat counts, and when it gives up."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from metafora_trio.contract import Lease, LeaseTerms
from metafora_trio_zookeeper._connection import Connection, ConnectionState, Done, ErrorCode, Reply, RequestError
from metafora_trio_zookeeper._session.heartbeat import Heartbeat
from tests.support.virtual_time import use_virtual_time

TERMS = LeaseTerms(12.0)
"""A heartbeat each second, silence after 2 s, cancellation after 6 s and the end of the lease after 7.64 s."""


@dataclass
class Link:
    """A connection that notes what is sent. All times count from when the test began."""

    origin: float
    state: ConnectionState = ConnectionState.CONNECTED
    number: int = 1
    server: str = "zk1:2181"
    proof: float = -math.inf
    connected_at: float = 0.0
    received: int = 0
    deliveries: int = 0
    backlog: int = 0
    answering: bool = True
    suspended: float = 5.0
    refuse: Done | None = None
    renewals: list[tuple[float, float]] = field(default_factory=list)
    sent: list[tuple[float, float]] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    over: list[tuple[float, str]] = field(default_factory=list)

    @property
    def now(self) -> float:
        return trio.current_time() - self.origin

    def heartbeat(self, path: str, stamp: float, done: Done) -> None:
        assert path == "/m/nodes/a"
        self.sent.append((self.now, stamp - self.origin))
        if self.answering:
            self.proof = stamp
            self.deliveries += 1
            done(Reply(None, 1))
        else:
            self.refuse = done

    def drop(self) -> None:
        self.dropped.append(self.now)
        self.state = ConnectionState.DISCONNECTED

    def reconnect(self) -> None:
        self.state, self.number, self.connected_at = ConnectionState.CONNECTED, self.number + 1, trio.current_time()


@asynccontextmanager
async def beating(terms: LeaseTerms = TERMS) -> AsyncGenerator[tuple[Heartbeat, Link, Lease]]:
    """Run a heartbeat on a connection that is established now. The first has been sent and answered."""
    await trio.sleep(1000)  # not near zero, where a time that was never set would look recent
    link, lease = Link(trio.current_time(), connected_at=trio.current_time()), Lease()
    async with trio.open_nursery() as nursery:

        def over(reason: str) -> None:
            link.over.append((link.now, reason))
            nursery.cancel_scope.cancel()

        heartbeat = Heartbeat(
            cast("Connection", link),
            "/m/nodes/a",
            lease,
            renewed=lambda: link.renewals.append((link.now, lease.proof - link.origin)),
            over=over,
            deliveries=lambda: link.deliveries,
            suspended=lambda: link.suspended,
        )
        heartbeat.set_terms(terms)
        heartbeat.send()
        nursery.start_soon(heartbeat.run)
        yield heartbeat, link, lease
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _virtual_time(request: pytest.FixtureRequest) -> None:
    use_virtual_time(request.node)


async def test_one_is_sent_each_period_and_counts_from_then() -> None:
    async with beating() as (_, link, lease):
        await trio.sleep(3.5)
        assert link.sent == [(0, 0), (1, 1), (2, 2), (3, 3)]
        assert link.renewals == [(0, 0), (1, 1), (2, 2), (3, 3)]
        assert lease.cancel_at == link.origin + 9
        assert lease.end == pytest.approx(link.origin + 10.64)


async def test_the_first_on_a_connection_counts_from_the_connect_at_most() -> None:
    """The connect is the server's last proof of life of this session. A stall after it must not stretch the lease."""
    async with beating() as (heartbeat, link, lease):
        await trio.sleep(0.5)
        link.drop()
        link.reconnect()
        await trio.sleep(3)  # no barrier is sent yet, so no heartbeat either
        assert link.sent == [(0, 0)]
        heartbeat.send()
        assert link.sent == [(0, 0), (3.5, 1.5)]
        assert lease.cancel_at == link.origin + 7.5


async def test_a_connection_without_an_answer_is_dropped_after_a_sixth_of_the_timeout() -> None:
    async with beating() as (_, link, _):
        await trio.sleep(4.5)
        link.answering = False  # the first that is not answered is sent after 5 s
        await trio.sleep(10)
        assert link.dropped == [8]  # 7 s is not later than 5 s + T/6


@pytest.mark.parametrize("sign", ["received", "deliveries", "backlog"])
async def test_any_sign_of_life_keeps_the_connection(sign: str) -> None:
    """A heartbeat's answer may wait behind a long reply, or behind what Trio has not taken yet."""
    async with beating() as (_, link, _):
        link.answering = False
        for number in range(1, 5):
            setattr(link, sign, number)
            await trio.sleep(1)
        assert link.dropped == []
        link.backlog = 0
        await trio.sleep(1.5)
        assert link.dropped == []
        await trio.sleep(2)
        assert len(link.dropped) == 1


async def test_the_own_stall_is_not_taken_for_silence(autojump_clock: MockClock) -> None:
    """A heartbeat that is sent late has T/6 for its answer from when it was sent, although it counts from earlier."""
    async with beating() as (_, link, _):
        await trio.sleep(4.5)
        link.answering = False
        autojump_clock.jump(2.25)
        await trio.sleep(1.75)
        assert link.sent[-2:] == [(6.75, 5), (7.75, 7.75)]
        assert link.dropped == []
        await trio.sleep(1.5)
        assert link.dropped == [9.75]


async def test_a_new_connection_has_its_own_time_for_answers() -> None:
    async with beating() as (heartbeat, link, _):
        link.answering = False
        await trio.sleep(4.5)
        assert link.dropped == [4]
        link.reconnect()
        heartbeat.send()
        await trio.sleep(2.5)
        assert link.dropped == [4]
        await trio.sleep(1)
        assert link.dropped == [4, 7.5]


async def test_two_session_timeouts_without_any_lease_end_the_session() -> None:
    """The lease would have ended at 7.64 s."""
    async with beating() as (_, link, _):
        await trio.sleep(0.5)
        link.drop()
        await trio.sleep(100)
    assert link.over == [(32, "no answer for two session timeouts after the lease ran out")]


async def test_terms_of_a_shorter_timeout_shorten_the_lease_from_the_connect() -> None:
    async with beating() as (heartbeat, link, lease):
        await trio.sleep(0.5)
        link.drop()
        link.reconnect()
        heartbeat.set_terms(LeaseTerms(3.0))
        assert lease.cancel_at == link.origin + 0.5 + 1.5
        assert lease.end == pytest.approx(link.origin + 0.5 + 2 - 0.09)


async def test_a_proof_counts_at_the_next_look_before_its_reply_is_delivered() -> None:
    """The reply may wait behind a backlog that takes longer than the lease."""
    async with beating() as (_, link, lease):
        link.answering = False
        await trio.sleep(1.5)
        link.proof = link.origin + 1
        await trio.sleep(1)
        assert lease.cancel_at == link.origin + 7


async def test_a_refused_heartbeat_ends_the_session() -> None:
    async with beating() as (_, link, _):
        link.answering = False
        await trio.sleep(1.5)
        assert link.refuse is not None
        link.refuse(RequestError(ErrorCode.CONNECTION_LOSS))  # not a verdict on the session
        assert link.over == []
        link.refuse(RequestError(ErrorCode.NO_AUTH))
    assert link.over == [(1.5, "a heartbeat was refused: no auth")]


async def test_the_seconds_of_a_suspend_shorten_the_lease() -> None:
    """Trio's clock did not count them, but the servers did. A task that cleans up has no more time than is left."""
    async with beating() as (heartbeat, link, lease):
        before = lease.cancel_at, lease.end
        link.suspended += 2.5
        heartbeat.check_suspended()
        assert (lease.cancel_at, lease.end) == (before[0] - 2.5, before[1] - 2.5)
    assert len(link.over) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_only_a_suspend_since_the_last_look_ends_the_session(times: int) -> None:
    """It is noticed once; the machine had been suspended for 5 s before the session began."""
    async with beating() as (heartbeat, link, _):
        link.suspended += 0.3  # not more than the margin, 0.36 s
        await trio.sleep(1.5)
        assert link.over == []
        link.suspended += 0.4
        for _ in range(times):
            heartbeat.check_suspended()
    assert link.over == [(1.5, "the machine was suspended for 0.4 s")]
