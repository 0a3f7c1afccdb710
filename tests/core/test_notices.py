"""Notices: a node's record says what people should know, in few and short lines, and only while it is true."""

from __future__ import annotations

from typing import cast

from metafora_trio import NodeInfo
from metafora_trio._model.node_info import MAX_NOTICE, MAX_NOTICES
from metafora_trio._node.notices import Notices
from metafora_trio.contract import Session


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


def test_a_change_is_announced_once() -> None:
    notices, session = make()
    notices.report("a", "task a cannot be read")
    notices.report("a", "task a cannot be read")
    notices.report("a", "task a cannot be read, twice")
    notices.clear("a")
    notices.clear("a")
    assert session.announced == [("task a cannot be read",), ("task a cannot be read, twice",), ()]
    assert session.node.frozen


def test_the_record_stays_small() -> None:
    """A node record is read by every node, so notices are few and short, each on one line."""
    notices, session = make()
    for number in range(100):
        notices.report(str(number), f"{number}:\n" + "x" * 1000)
    announced = len(session.announced)
    notices.report("99", "changed, but not shown")
    assert len(session.announced) == announced
    assert len(session.node.notices) == MAX_NOTICES
    assert {len(notice) for notice in session.node.notices[:-1]} == {MAX_NOTICE}
    assert session.node.notices[0].startswith("0: xx")
    assert session.node.notices[-1] == f"and {100 - MAX_NOTICES + 1} more"
    assert NodeInfo.decode("ant.1", session.node.encode()) == session.node


def test_any_sentence_can_be_read_by_others() -> None:
    """An error may quote a file name that is not text."""
    notices, session = make()
    notices.report("a", "no file caf\udce9")
    assert session.node.notices == ("no file caf\\udce9",)
    assert NodeInfo.decode("ant.1", session.node.encode()) == session.node


def test_a_change_that_nobody_would_see_is_not_announced() -> None:
    notices, session = make()
    for length in (MAX_NOTICE + 1, MAX_NOTICE + 2):
        notices.report("a", "x" * length)
    assert session.announced == [("x" * MAX_NOTICE,)]
