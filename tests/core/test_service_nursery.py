"""open_service_nursery: the body ends first, then the helpers; a single exception propagates unwrapped."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from metafora_trio._service_nursery import open_service_nursery


async def record_end(record: list[str]) -> None:
    """A helper that serves until it is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        record.append("helper ends")


async def fail(after: float = 0.0) -> None:
    """A helper that fails after some seconds, by default in its first step, before a cancellation can reach it."""
    if after:
        await trio.sleep(after)
    raise ValueError("helper")


async def fail_when_cancelled() -> None:
    """A helper that serves until it is cancelled, and then fails."""
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("helper")


async def clean_up_when_cancelled(record: list[str]) -> None:
    """A body that takes 5 s to clean up."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        record.append("body has cleaned up")


async def test_helpers_serve_until_the_body_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    record: list[str] = []
    async with open_service_nursery() as nursery:
        nursery.start_soon(record_end, record)
        await trio.sleep(10)
        record.append("body ends")
    assert record == ["body ends", "helper ends"]


async def test_helpers_serve_while_a_cancelled_body_cleans_up(autojump_clock: trio.testing.MockClock) -> None:
    """A cancel scope inside the nursery cancels only the body."""
    record: list[str] = []
    async with open_service_nursery() as nursery:
        nursery.start_soon(record_end, record)
        with trio.move_on_after(5):
            await clean_up_when_cancelled(record)
    assert record == ["body has cleaned up", "helper ends"]


async def test_cancellation_from_outside_reaches_the_body_first(autojump_clock: trio.testing.MockClock) -> None:
    record: list[str] = []
    with trio.move_on_after(1) as scope:
        async with open_service_nursery() as nursery:
            nursery.start_soon(record_end, record)
            await clean_up_when_cancelled(record)
    assert record == ["body has cleaned up", "helper ends"]
    assert scope.cancelled_caught


async def test_exception_of_the_body_propagates_unwrapped(autojump_clock: trio.testing.MockClock) -> None:
    async def body() -> None:
        async with open_service_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await body()


async def test_exception_of_a_helper_cancels_the_body(autojump_clock: trio.testing.MockClock) -> None:
    async def body() -> None:
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail, 3)
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    with pytest.raises(ValueError, match="helper"):
        await body()
    assert trio.current_time() == 3


async def test_exceptions_of_several_helpers_propagate_as_a_group(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.RaisesGroup(ValueError, ValueError, flatten_subgroups=True):
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_exceptions_of_body_and_helper_propagate_as_a_group(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.RaisesGroup(ValueError, KeyError, flatten_subgroups=True):
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError("mine")


async def test_group_of_the_body_is_unchanged(autojump_clock: trio.testing.MockClock) -> None:
    """Only the group that the nursery itself adds is unwrapped."""
    with pytest.RaisesGroup(ValueError, KeyError):
        async with open_service_nursery():
            raise ExceptionGroup("mine", [ValueError(), KeyError()])


async def test_cancelling_the_helpers_does_not_cancel_the_body(autojump_clock: trio.testing.MockClock) -> None:
    record: list[str] = []
    async with open_service_nursery() as nursery:
        nursery.start_soon(record_end, record)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
        await trio.sleep(1)
        record.append("body ends")
    assert record == ["helper ends", "body ends"]
