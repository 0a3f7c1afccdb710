"""Lease: the time for which a node may believe in its session, counted from the sending of a heartbeat."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio import contract
from metafora_trio._model.lease import MIN_SESSION_TIMEOUT, LeaseTerms

timeouts = st.floats(MIN_SESSION_TIMEOUT, 600)


@pytest.mark.parametrize(
    "session_timeout, period, until_cancel, margin, until_end",
    [(12, 1, 6, 0.36, 7.64), (2, 1 / 6, 1, 0.06, 4 / 3 - 0.06), (1, 1 / 12, 0.5, 0.05, 2 / 3 - 0.05)],
)
def test_terms(session_timeout: float, period: float, until_cancel: float, margin: float, until_end: float) -> None:
    terms = LeaseTerms(session_timeout)
    assert terms.heartbeat_period == pytest.approx(period)
    assert terms.until_cancel == pytest.approx(until_cancel)
    assert terms.margin == pytest.approx(margin)
    assert terms.until_end == pytest.approx(until_end)


@given(timeouts)
def test_the_lease_ends_before_the_session(session_timeout: float) -> None:
    """The lease leaves time for cleanup, and ends before the earliest time at which the broker may expire the session.

    The session's last touch at the server may be half a tick and a heartbeat period old. A tick is at most half of the
    session timeout.
    """
    terms = LeaseTerms(session_timeout)
    earliest_expiry = session_timeout - session_timeout / 4 - terms.heartbeat_period
    assert terms.until_cancel < terms.until_end < earliest_expiry
    assert terms.until_end - terms.until_cancel >= 0.1 * session_timeout


def test_the_shortest_timeout_leaves_time_for_cleanup() -> None:
    terms = LeaseTerms(MIN_SESSION_TIMEOUT)
    assert terms.until_end - terms.until_cancel > 0.25
    assert MIN_SESSION_TIMEOUT == 2.0, "the pages promise that so short a timeout is possible"


def test_heartbeat_in_time_counts_from_its_sending() -> None:
    terms = LeaseTerms(12)
    assert terms.stamp(now=100.9, previous=100.0) == 100.9


def test_late_heartbeat_counts_from_the_time_it_was_due() -> None:
    """A stalled event loop must not extend the lease, because the server's last touch may be older by the stall."""
    terms = LeaseTerms(12)
    assert terms.stamp(now=107.0, previous=100.0) == 101.0


def test_renew() -> None:
    lease, terms = contract.Lease(), LeaseTerms(12)
    assert (lease.finite, lease.cancel_at, lease.end) == (False, math.inf, math.inf)
    assert lease.renew(terms, 100.0, 100.0)
    assert (lease.finite, lease.cancel_at) == (True, 106.0)
    assert lease.end == pytest.approx(107.64)


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_replies_in_any_order_never_shorten_the_lease(proofs: list[float]) -> None:
    lease, terms = contract.Lease(), LeaseTerms(12)
    longest = -math.inf
    for proof in proofs:
        assert lease.renew(terms, proof, 0.0) == (proof > longest)
        longest = max(longest, proof)
        assert (lease.cancel_at, lease.end) == (longest + terms.until_cancel, longest + terms.until_end)


def test_revoked_lease_has_no_time_left() -> None:
    lease = contract.Lease()
    lease.renew(LeaseTerms(12), 100.0, 100.0)
    lease.revoke(103.0)
    assert (lease.cancel_at, lease.end) == (103.0, 103.0)
    lease.revoke(105.0)  # a later revocation does not extend an ended lease
    assert (lease.cancel_at, lease.end) == (103.0, 103.0)


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_lease_that_has_fired_is_final(late: float, proof: float) -> None:
    """From `cancel_at` on tasks are being cancelled, so no heartbeat brings them time back, however new it is."""
    lease, terms = contract.Lease(), LeaseTerms(12)
    lease.renew(terms, 0.0, 0.0)
    cancel_at, end = lease.cancel_at, lease.end
    assert not lease.renew(terms, proof, cancel_at + late)
    assert (lease.cancel_at, lease.end) == (cancel_at, end)


def test_followers_are_called_after_each_change() -> None:
    lease, terms, ends = contract.Lease(), LeaseTerms(12), list[float]()

    def follow() -> None:
        ends.append(round(lease.end, 2))

    lease.follow(follow)
    lease.renew(terms, 100.0, 100.0)
    lease.renew(terms, 99.0, 100.0)  # no change
    lease.limit(200.0, 105.0)
    lease.revoke(101.0)
    lease.unfollow(follow)
    lease.revoke(100.0)
    assert ends == [107.64, 105.0, 101.0]
