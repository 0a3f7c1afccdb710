"""The schedule of a chaos run is the same for the same seed, and meets the conditions that the checker needs."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("kazoo", reason="chaos runs need the extra `zookeeper`")

from hypothesis import given
from hypothesis import strategies as st

from stress.chaos.faults import KINDS, Fault, FaultKind, calm, schedule

runs = st.builds(
    lambda seed, seconds, nodes, servers, timeout, poison: (
        timeout,
        seconds,
        schedule(seed=seed, seconds=seconds, nodes=nodes, servers=servers, session_timeout=timeout, poison=poison),
    ),
    st.integers(0, 10_000),
    st.floats(10, 300),
    st.integers(2, 8),
    st.sampled_from([1, 3, 5]),
    st.floats(2, 10),
    st.booleans(),
)


SEEN = {FaultKind.BLOCKED, FaultKind.STALL}
"""Faults that are recorded when they are seen, not planned."""
POISON = {kind for kind, about in KINDS.items() if about.target in ("poison", "namesake", "looping node")}


def draw(seed: int, *, seconds: float = 120, nodes: int = 5, servers: int = 3, poison: bool = False) -> list[Fault]:
    return schedule(seed=seed, seconds=seconds, nodes=nodes, servers=servers, session_timeout=4.0, poison=poison)


def test_the_same_seed_gives_the_same_faults() -> None:
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@given(runs)
def test_all_are_healed_in_time(run: tuple[float, float, list[Fault]]) -> None:
    _, seconds, faults = run

    assert faults
    assert faults == sorted(faults, key=lambda fault: fault.at)
    assert all(0 < fault.at <= fault.end <= seconds + 1e-9 for fault in faults)


@given(runs)
def test_two_faults_on_one_target_do_not_overlap(run: tuple[float, float, list[Fault]]) -> None:
    """Nor do two faults on servers, because a majority must serve. A fault on all nodes counts for each node."""
    _, _, faults = run
    on_servers = [fault for fault in faults if "server" in KINDS[fault.kind].target]
    nodes = {fault.target for fault in faults if KINDS[fault.kind].target in ("node", "new node")}
    on_node = [[fault for fault in faults if fault.target == name or _on_all(fault)] for name in nodes]

    for together in [on_servers, *on_node]:
        assert all(one.end <= other.at for one, other in pairwise(together))


def _on_all(fault: Fault) -> bool:
    return fault.kind is FaultKind.ROLL_NODES


@given(runs)
def test_no_fault_is_near_a_lone_kill(run: tuple[float, float, list[Fault]]) -> None:
    timeout, _, faults = run
    for kill in (fault for fault in faults if fault.alone):
        others = [fault for fault in faults if fault is not kill and KINDS[fault.kind].fault]

        assert kill.kind is FaultKind.KILL
        assert all(other.end + calm(timeout) <= kill.at + 1e-9 or other.at > kill.end for other in others)


@pytest.mark.parametrize("seed", range(5))
def test_a_long_freeze_and_a_long_cut_come_first(seed: int) -> None:
    """Both reveal the bugs of `--break`: longer than the session timeout, and before any server is disturbed."""
    faults = draw(seed, seconds=30, nodes=3)

    assert {fault.kind for fault in faults[:2]} == {FaultKind.FREEZE, FaultKind.CUT}
    assert all(fault.seconds > 4 for fault in faults[:2])
    ends = max(fault.end for fault in faults[:2])
    assert all(fault.at >= ends for fault in faults if "server" in KINDS[fault.kind].target)


def test_every_kind_has_its_turn() -> None:
    found = schedule(seed=1, seconds=900, nodes=5, servers=3, session_timeout=4.0, loss=True, poison=True)

    assert {fault.kind for fault in found} == set(KINDS) - SEEN


def test_packets_are_lost_only_if_they_can_be_dropped() -> None:
    assert {fault.kind for fault in draw(1, seconds=900)} == set(KINDS) - {FaultKind.LOSS} - SEEN - POISON


def test_a_single_server_is_never_isolated() -> None:
    kinds = {fault.kind for fault in draw(1, seconds=1000, servers=1)}

    assert not kinds & {FaultKind.ISOLATE_SERVER, FaultKind.CUT_PAIR, FaultKind.LOSE_QUORUM}
    assert FaultKind.KILL_SERVERS in kinds


@pytest.mark.parametrize("seed", range(3))
def test_poison_comes_first_without_any_fault(seed: int) -> None:
    """Nothing then excuses an innocent task that restarts."""
    found = draw(seed, poison=True)

    first = min(fault.at for fault in found if KINDS[fault.kind].fault)
    poison = [fault for fault in found if fault.kind in POISON and fault.at < first]
    assert {fault.kind for fault in poison} == POISON - {FaultKind.CRASH_LOOP}
    assert first > 20


@pytest.mark.parametrize("seed", range(3))
def test_blocked_event_loops_have_a_scene_of_their_own(seed: int) -> None:
    found = draw(seed, poison=True)

    (blocking,) = (fault for fault in found if fault.kind is FaultKind.BLOCKING)
    last = blocking.end + 1.5 * 4.0  # if a block begins just before the end
    others = [fault for fault in found if KINDS[fault.kind].fault]
    assert all(other.end < blocking.at or other.at > last + calm(4.0) - 1 for other in others)


@pytest.mark.parametrize("seed", range(3))
def test_a_node_is_killed_beside_a_crash_loop(seed: int) -> None:
    found = draw(seed, poison=True)

    (loop,) = (fault for fault in found if fault.kind is FaultKind.CRASH_LOOP)
    kills = [fault for fault in found if fault.kind is FaultKind.KILL and loop.at < fault.at < fault.end < loop.end]
    assert len(kills) == 1
    assert kills[0].target != loop.target
