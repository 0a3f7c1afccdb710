"""Notices: a node's record says what people should know, in few and short lines, and only while it is true."""

from __future__ import annotations

import itertools
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import NodeInfo
from metafora_trio._memory.session import MemorySession
from metafora_trio._model.node_info import MAX_NOTICE, MAX_NOTICES
from metafora_trio._node.notices import Notices
from metafora_trio.contract import Session
from tests.support.nodes import open_cluster


class AnnouncingSession:
    """The part of a session that notices use."""

    def __init__(self) -> None:
        self.node = NodeInfo("ant.1", frozen=True)
        self.announced: list[tuple[str, ...]] = []

    def announce(self, node: NodeInfo) -> None:
        self.node = node
        self.announced.append(node.notices)


def make() -> tuple[Notices, AnnouncingSession]:
    session = AnnouncingSession()
    return Notices(cast(Session, session)), session


async def test_a_change_is_announced_once() -> None:
    notices, session = make()
    notices.report("a", "task a cannot be read")
    notices.report("a", "task a cannot be read")
    notices.report("a", "task a cannot be read, twice")
    notices.announce()
    notices.clear("a")
    notices.clear("a")
    notices.announce()
    notices.announce()
    assert session.announced == [("task a cannot be read",), ("task a cannot be read, twice",), ()]
    assert session.node.frozen


async def test_the_record_stays_small() -> None:
    """A node record is read by every node, so notices are few and short, each on one line."""
    notices, session = make()
    for number in range(100):
        notices.report(str(number), f"{number}:\n" + "x" * 1000)
    notices.announce()
    announced = len(session.announced)
    notices.report("99", "changed, but not shown")
    notices.announce()
    assert len(session.announced) == announced
    assert len(session.node.notices) == MAX_NOTICES
    assert {len(notice) for notice in session.node.notices[:-1]} == {MAX_NOTICE}
    assert session.node.notices[0].startswith("0: xx")
    assert session.node.notices[-1] == f"and {100 - MAX_NOTICES + 1} more"
    assert NodeInfo.decode("ant.1", session.node.encode()) == session.node


async def test_any_sentence_can_be_read_by_others() -> None:
    """An error may quote a file name that is not text."""
    notices, session = make()
    notices.report("a", "no file caf\udce9")
    assert session.node.notices == ("no file caf\\udce9",)
    assert NodeInfo.decode("ant.1", session.node.encode()) == session.node


async def test_a_change_that_nobody_would_see_is_not_announced() -> None:
    notices, session = make()
    for length in (MAX_NOTICE + 1, MAX_NOTICE + 2):
        notices.report("a", "x" * length)
        notices.announce()
    assert session.announced == [("x" * MAX_NOTICE,)]


async def test_many_changes_are_few_announcements(autojump_clock: MockClock) -> None:
    """The first change is announced at once, the next ones together a few seconds later."""
    notices, session = make()
    for number in range(99):
        notices.report(f"lethal {number}", f"task {number} is left alone")
        await trio.sleep(0.125)
    for number in range(99):
        notices.clear(f"lethal {number}")
    assert [shown[-1] for shown in session.announced] == ["task 0 is left alone", "and 34 more", "and 74 more"]
    await trio.sleep(3)
    notices.announce_if_due()
    assert session.announced[3:] == [()]


async def test_the_last_state_gets_through(autojump_clock: MockClock) -> None:
    """Many tasks that cannot be read cost few records, and the last one says how many there are."""
    records: list[tuple[float, NodeInfo]] = []
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        announce = MemorySession.announce
        membership = a.consumer._membership
        assert membership is not None
        with pytest.MonkeyPatch.context() as patch:

            def announcing(self: MemorySession, node: NodeInfo) -> None:
                records.append((trio.current_time(), node))
                announce(self, node)

            patch.setattr(MemorySession, "announce", announcing)
            for number in range(200):
                membership.notices.report(str(number), f"task t{number} cannot be read")
                await trio.sleep(0.1)
            await trio.sleep(10)
        times = [at for at, _ in records]
        assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(times))
        assert 3 <= len(times) <= 6
        assert (await cluster.client.nodes())[0].node.notices[-1] == "and 193 more"
