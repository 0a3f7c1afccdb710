"""Clocks: the date and time of recorded failures and joins. Tests can set them."""

from __future__ import annotations

import datetime

import trio
from trio.testing import MockClock

from metafora_trio import RunningTask
from metafora_trio._clock import SystemClock, TrioClock
from tests.support.nodes import open_cluster

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)


def test_system_clock() -> None:
    """`SystemClock` returns the time of the machine as an aware datetime in UTC."""
    before = datetime.datetime.now(datetime.UTC)
    now = SystemClock().now()
    assert now.utcoffset() == datetime.timedelta(0)
    assert before <= now <= datetime.datetime.now(datetime.UTC)


async def test_trio_clock(autojump_clock: MockClock) -> None:
    """`TrioClock` advances with Trio's clock: by an hour in an hour of virtual time."""
    clock = TrioClock(NOON)
    began = clock.now()
    await trio.sleep(3600)
    assert clock.now() - began == datetime.timedelta(hours=1)
    assert began == NOON + datetime.timedelta(seconds=trio.current_time() - 3600)


async def test_node_dates_its_records_by_its_clock(autojump_clock: MockClock) -> None:
    """A node dates the failures of its tasks and its own joining by its clock."""

    async def fails(task: RunningTask) -> None:
        raise ValueError("no")

    async with open_cluster() as cluster:
        clock = TrioClock(NOON)
        joined = clock.now()
        await cluster.start("a", fails, clock=clock)
        await cluster.submit("t")
        status = (await cluster.client.wait(["t"]))["t"]
        (node,) = await cluster.client.nodes()
        assert node.node.since == joined.timestamp()
        assert joined < status.errors[0].timestamp <= clock.now()
