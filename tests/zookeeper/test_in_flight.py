"""InFlight: what a session has requested and not seen yet, and how many more claims fit into it."""

from __future__ import annotations

import pytest

from metafora_trio import Claim
from metafora_trio.contract import ClaimKind
from metafora_trio_zookeeper._session.batch import Unit
from metafora_trio_zookeeper._session.in_flight import InFlight

MOST = 900_000
"""The bytes of claims that one session may have."""


def claim(task: str, seq: int = 1) -> Claim:
    return Claim(seq, task, "a.1", ClaimKind.CLAIM)


def unit(task: str) -> Unit:
    return Unit((), lambda unit, error: None, task)


def in_flight() -> InFlight:
    return InFlight("a.1", lambda task: 64 + len(task))


class TestRoomForClaims:
    def test_without_claims_ids_are_taken_to_be_uuids(self) -> None:
        assert in_flight().free == MOST // (64 + 36)

    def test_with_claims_their_average_counts(self) -> None:
        requests = in_flight()
        for task in ("t" * 36, "t" * 236):
            requests.appeared(claim(task))
        assert requests.free == (MOST - 400) // 200
        requests.gone(claim("t" * 236))
        assert requests.free == (MOST - 100) // 100

    def test_there_is_none_when_too_much_is_taken(self) -> None:
        requests = InFlight("a.1", lambda task: MOST)
        for task in ("one", "two"):
            requests.appeared(claim(task))
        assert requests.free == 0

    def test_a_resync_counts_what_it_found(self) -> None:
        """Claims that were lost while disconnected take no room any more."""
        requests = in_flight()
        for task in ("t" * 36, "t" * 236):
            requests.appeared(claim(task))
        requests.restart(iter([claim("t" * 36)]))
        assert requests.free == (MOST - 100) // 100
        requests.restart(iter([]))
        assert requests.free == MOST // 100


class TestMarks:
    def test_a_claim_that_appears_is_pending_no_more(self) -> None:
        requests = in_flight()
        requests.pending["t1"], requests.pending["t2"] = unit("t1"), unit("t2")
        requests.appeared(claim("t1"))
        assert [*requests.pending] == ["t2"]

    def test_a_claim_that_is_gone_is_leaving_and_released_no_more(self) -> None:
        requests = in_flight()
        for own in (claim("t1"), claim("t2")):
            requests.appeared(own)
            requests.leaving[own] = unit(own.task)
            requests.released[own] = None
        requests.gone(claim("t1"))
        assert ([*requests.leaving], [*requests.released]) == ([claim("t2")], [claim("t2")])

    def test_nothing_is_in_flight_after_a_resync(self) -> None:
        """The outcome of each earlier request is in the new view. A mark that stayed would block its task for ever."""
        requests = in_flight()
        requests.appeared(claim("t1"))
        requests.leaving[claim("t1")], requests.pending["t2"] = unit("t1"), unit("t2")
        requests.restart([claim("t1")])
        assert (requests.pending, requests.leaving) == ({}, {})
        assert not requests.is_leaving(claim("t1"))

    @pytest.mark.parametrize("found", [[claim("t1")], [claim("t1", seq=2)], []])
    def test_a_release_stays_promised_while_its_claim_exists(self, found: list[Claim]) -> None:
        requests = in_flight()
        requests.appeared(claim("t1"))
        requests.released[claim("t1")] = None
        requests.restart(iter(found))
        assert [*requests.released] == [own for own in found if own.seq == 1]

    async def test_a_refused_end_is_tried_again_after_a_resync(self) -> None:
        requests = in_flight()
        requests.appeared(claim("t1"))
        requests.refusals.refused(claim("t1"), "no auth")
        assert requests.is_leaving(claim("t1"))
        requests.restart(iter([claim("t1")]))
        assert not requests.is_leaving(claim("t1"))
        assert [*requests.refusals.reasons] == ["t1"]
