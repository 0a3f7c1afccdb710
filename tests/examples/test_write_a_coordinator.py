"""docs/howto/write-a-coordinator.md: its code runs, and its steps cover the whole conformance suite."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from metafora_trio import Claim, SessionLost
from metafora_trio.contract import ClaimAdded, ClaimKind, ClaimRemoved, Lease, NodeAdded, NodeInfo, TaskAdded
from metafora_trio.testing.conformance import CoordinatorConformance
from tests.support.pages import ROOT, python_blocks, run_blocks

PAGE = "docs/howto/write-a-coordinator.md"
SUITE = {name for name in dir(CoordinatorConformance) if name.startswith("test_")}
STEPS = re.findall(r'^Run `-k "([^"]+)"`', (ROOT / PAGE).read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return run_blocks(PAGE)


def test_the_test_file_runs_the_whole_suite(tmp_path: Path) -> None:
    (test_file,) = [block for block in python_blocks(PAGE) if "CoordinatorConformance" in block]
    (tmp_path / "test_my_coordinator.py").write_text(test_file)
    command = [sys.executable, "-m", "pytest", "-o", "trio_mode=true", "test_my_coordinator.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f" {len(SUITE)} passed in " in run.stdout.splitlines()[-1], run.stdout + run.stderr


def test_every_test_of_the_suite_belongs_to_a_step() -> None:
    """An author who follows all steps runs every test, and each word of a step selects at least one test."""
    words = [word for step in STEPS for word in step.split(" or ")]
    assert [word for word in words if not any(word in name for name in SUITE)] == []
    assert {name for name in SUITE if not any(word in name for word in words)} == set()


async def test_the_view_shows_the_result_before_the_request_is_answered(page: dict[str, Any]) -> None:
    follower, answer = page["Follower"](), page["Answer"]
    claim = Claim(1, "t", "a.1", ClaimKind.CLAIM)
    send, receive = trio.open_memory_channel[Any](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.follow, receive)
        for event in (NodeAdded(NodeInfo("a.1")), TaskAdded("t")):
            await send.send(event)
        await follower.wait_changed()
        changes = follower.take_changes()
        assert (changes.nodes, list(changes.tasks)) == (True, ["t"])

        follower.pending.add("t")
        await send.send(ClaimAdded(claim))
        await trio.testing.wait_all_tasks_blocked()
        assert (follower.view.head("t"), follower.pending) == (claim, {"t"})
        await send.send(answer("t"))
        await trio.testing.wait_all_tasks_blocked()
        assert follower.pending == set()

        follower.leaving.add(claim)
        await send.send(ClaimRemoved(claim))
        await trio.testing.wait_all_tasks_blocked()
        assert (follower.view.head("t"), follower.leaving) == (None, {claim})
        follower.take_changes()
        await send.send(answer("t", claim))
        await follower.wait_changed()
        assert (follower.leaving, list(follower.take_changes().tasks)) == (set(), ["t"])
        nursery.cancel_scope.cancel()


async def hold_lease(page: dict[str, Any], prove_alive: Callable[[], Awaitable[None]], leases: list[Lease]) -> None:
    """Hold a lease of the page, for a session timeout of 6 s, until it is lost."""
    async with page["open_lease"](6.0, prove_alive) as lease:
        leases.append(lease)
        await trio.sleep_forever()


async def test_the_lease_ends_by_itself(page: dict[str, Any], autojump_clock: trio.testing.MockClock) -> None:
    """The lease lasts while heartbeats are answered, and counts from when the last answered one was sent."""
    answered = [trio.current_time() + 0.5 * n for n in range(21)]
    heartbeats = iter(answered)
    leases: list[Lease] = []

    async def prove_alive() -> None:
        if next(heartbeats, None) is None:
            await trio.sleep_forever()

    with pytest.raises(SessionLost, match="has run out"):
        await hold_lease(page, prove_alive, leases)
    assert trio.current_time() == leases[0].cancel_at == answered[-1] + 3.0


async def test_a_late_heartbeat_does_not_stretch_the_lease(
    page: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    took = iter([0.0, 2.0, 0.0, math.inf])  # seconds of each answer; the third heartbeat is due at 1.0 and sent at 2.5
    began = trio.current_time()
    leases: list[Lease] = []

    async def prove_alive() -> None:
        await trio.sleep(next(took))

    with pytest.raises(SessionLost):
        await hold_lease(page, prove_alive, leases)
    assert leases[0].cancel_at == began + 1.0 + 3.0


async def test_a_lost_session_leaves_no_time(page: dict[str, Any], autojump_clock: trio.testing.MockClock) -> None:
    answers = iter([None, SessionLost("it has expired")])
    leases: list[Lease] = []

    async def prove_alive() -> None:
        await trio.lowlevel.checkpoint()
        if (error := next(answers)) is not None:
            raise error

    with pytest.raises(SessionLost, match="it has expired"):
        await hold_lease(page, prove_alive, leases)
    assert leases[0].end <= trio.current_time()


def test_from_url(page: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(page, "MyCoordinator", lambda host, *, cluster: (host, cluster))
    assert page["from_url"]("mybroker://db.example:99/feeds") == ("db.example:99", "feeds")
    assert page["from_url"]("mybroker://db.example") == ("db.example:4321", "metafora")
    with pytest.raises(ValueError, match="no host in 'mybroker:///feeds'"):
        page["from_url"]("mybroker:///feeds")
