"""The simulated world: processes that share only virtual time, with the same result every time."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
import trio
from trio._core import _run as trio_run

from metafora_trio.testing.simulation._world import Process, World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


async def sleep_and_say(log: list[str], name: str, *seconds: float) -> None:
    for pause in seconds:
        await trio.sleep(pause)
        log.append(f"{name} {trio.current_time():g}")


def test_trio_has_the_private_names_that_the_world_uses() -> None:
    """The canary: private names of Trio, with the types that the world relies on."""
    assert isinstance(trio_run.GLOBAL_RUN_CONTEXT.__dict__, dict)
    assert isinstance(trio_run._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    assert 0 <= trio_run._r.random() < 1


def test_processes_sleep_side_by_side(world: World) -> None:
    log: list[str] = []
    world.spawn("a", sleep_and_say, log, "a", 1.0, 1.5)
    world.spawn("b", sleep_and_say, log, "b", 2.0)
    world.run_for(10.0)
    assert log == ["a 1", "b 2", "a 2.5"]
    assert world.now == 10.0
    assert [process.ended for process in world.processes] == [True, True]


def test_calls_happen_in_order_and_outside_every_process(world: World) -> None:
    seen: list[tuple[float, str]] = []
    for when, what in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        world.at(when, lambda what=what: seen.append((world.now, what)))
    world.at(1.0, lambda: world.after(0.5, lambda: seen.append((world.now, f"in {world.current}"))))
    world.run_for(5.0)
    assert seen == [(1.0, "first"), (1.0, "second"), (1.5, "in None"), (2.0, "late")]


def test_a_call_runs_in_the_process(world: World) -> None:
    event = trio.Event()
    seen: list[object] = []

    async def wait() -> None:
        await event.wait()
        seen.append(trio.current_time())

    process = world.spawn("a", wait)

    def deliver() -> None:
        seen.append(world.current)
        event.set()

    world.at(3.0, process.call, deliver)
    world.run_for(5.0)
    assert seen == [process, 3.0]


def test_run_until_stops_when_the_predicate_is_true(world: World) -> None:
    log: list[str] = []
    world.spawn("a", sleep_and_say, log, "a", 1.0, 1.0)
    assert world.run_until(lambda: log, within=5.0)
    assert world.now == 1.0
    assert not world.run_until(lambda: len(log) > 2, within=5.0)
    assert world.now == 6.0


def test_a_frozen_process_runs_nothing_and_its_clock_keeps_running(world: World) -> None:
    log: list[str] = []
    process = world.spawn("a", sleep_and_say, log, "a", 1.0, 1.0)
    world.run_for(0.5)
    world.freeze(process)
    for text in ("first", "second"):
        process.call(log.append, text)
    world.run_for(4.0)
    assert log == []
    world.thaw(process)
    world.thaw(process)  # which changes nothing
    world.run_for(0.0)
    assert set(log) == {"first", "second", "a 4.5"}
    assert log.index("first") < log.index("second")


def test_the_clock_of_a_suspended_process_stands_still(world: World) -> None:
    """A timer that has three seconds left when its machine is suspended has three seconds left when it wakes."""
    seen: list[tuple[float, float]] = []

    async def sleep() -> None:
        await trio.sleep(4.0)
        seen.append((world.now, trio.current_time()))

    process = world.spawn("a", sleep, rate=2.0)
    world.run_for(0.5)  # one second by its clock
    world.suspend(process)
    world.run_for(10.0)
    assert (process.time, process.suspended) == (1.0, 0.0)
    world.suspend(process)  # no difference
    world.thaw(process)
    assert (process.time, process.suspended) == (1.0, 10.0)
    world.run_for(1.4)
    assert seen == []
    world.run_for(0.2)
    assert seen == [(12.0, 4.0)]


def test_a_frozen_process_may_be_suspended_and_runs_on_once_it_wakes(world: World) -> None:
    process = world.spawn("a", trio.sleep_forever)
    world.run_for(1.0)
    world.freeze(process)
    world.run_for(1.0)
    world.suspend(process)
    world.run_for(5.0)
    world.thaw(process)
    world.run_for(1.0)
    assert (process.time, process.suspended, process.frozen) == (3.0, 5.0, False)


def test_a_process_may_be_frozen_before_its_first_turn(world: World) -> None:
    log: list[str] = []
    process = world.spawn("a", sleep_and_say, log, "a", 0.0)
    world.freeze(process)
    world.run_for(1.0)
    assert log == []
    world.thaw(process)
    world.run_for(0.0)
    assert log == ["a 1"]


def test_deadlines_come_before_anything_else_after_a_thaw(world: World) -> None:
    """The lease is a deadline: a task whose lease ended during the freeze does not take another step."""
    log: list[str] = []
    event = trio.Event()

    async def work() -> None:
        with trio.move_on_after(1.0):
            await event.wait()
            log.append("worked on")
        log.append("cancelled")

    process = world.spawn("a", work)
    world.run_for(0.5)
    world.freeze(process)
    world.run_for(2.0)
    world.thaw(process)
    process.call(event.set)
    world.run_for(0.0)
    assert log == ["cancelled"]


def test_a_killed_process_is_silent_and_does_not_run_again(world: World) -> None:
    log: list[str] = []
    process = world.spawn("a", sleep_and_say, log, "a", 1.0, 1.0)
    world.run_for(1.5)
    world.kill(process)
    process.call(log.append, "dropped")
    world.run_for(5.0)
    assert log == ["a 1"]
    assert (process.dead, process.ended) == (True, False)


def test_closing_unwinds_a_process_that_shields_itself_for_a_while() -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100.0)
            log.append("unwound")

    with World() as world:
        process = world.spawn("a", work)
        world.run_for(1.0)
        world.kill(process)
    assert log == ["unwound"]
    assert world.now == 1.0


def test_a_clock_may_run_fast(world: World) -> None:
    seen: list[float] = []

    async def sleep() -> None:
        await trio.sleep(3.0)
        seen.append(world.now)

    world.spawn("a", sleep, rate=1.5)
    world.run_for(5.0)
    assert seen == [pytest.approx(2.0)]


def test_any_rate_meets_its_deadlines(world: World) -> None:
    """A deadline, converted by a rate and back, may come out slightly early. The process must not wait for ever."""
    log: list[str] = []
    for number in range(1, 40):
        world.spawn(f"{number}", sleep_and_say, log, "a", *[0.1 * number] * 10, rate=1.0 + number / 997)
    world.run_for(100.0)
    assert len(log) == 390


def test_an_exception_is_the_outcome(world: World) -> None:
    async def fail() -> None:
        await trio.sleep(1.0)
        raise ValueError("boom")

    process = world.spawn("a", fail)
    world.run_for(2.0)
    assert process.outcome is not None
    with pytest.raises(ValueError, match="boom"):
        process.outcome.unwrap()


def test_async_generators_stay_in_their_process(world: World) -> None:
    """A run that ends closes the generators that it knows, so these must be its own."""
    log: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            log.append(f"{name} closed at {trio.current_time():g}")

    async def use(name: str, seconds: float) -> None:
        async with resource(name):
            await trio.sleep(seconds)

    world.spawn("long", use, "long", 5.0)
    world.spawn("short", use, "short", 1.0)
    world.run_for(10.0)
    assert log == ["short closed at 1", "long closed at 5"]


def test_an_async_generator_that_is_left_open_is_closed_by_its_own_process(world: World) -> None:
    log: list[float] = []
    kept: list[AsyncGenerator[int]] = []

    async def count() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            log.append(trio.current_time())

    async def leave_open(seconds: float) -> None:
        kept.append(count())  # alive when its process ends
        assert await anext(kept[-1]) == 1
        await trio.sleep(seconds)

    for seconds in (5.0, 1.0):
        world.spawn("a", leave_open, seconds)
    world.run_for(10.0)
    assert log == [1.0, 5.0]


def test_processes_that_wake_each_other_for_ever_are_found(world: World) -> None:
    def ping(process: Process) -> None:
        process.call(lambda: None)
        world.at(world.now, ping, process)

    world.at(0.0, ping, world.spawn("a", trio.sleep_forever))
    with pytest.raises(RuntimeError, match="time is stuck at"):
        world.run_for(1.0)


def schedule(seed: int) -> list[str]:
    log: list[str] = []

    async def many() -> None:
        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(sleep_and_say, log, name, 1.0, 1.0)

    with World(seed) as world:
        for _ in range(3):
            world.spawn("p", many)
        world.run_for(5.0)
    return log


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert schedule(1) == schedule(1)
    assert len({tuple(schedule(seed)) for seed in range(8)}) > 4


def test_another_thread_with_trio_changes_nothing() -> None:
    """The proxies of a real ensemble run in such a thread."""
    begun, over = threading.Event(), threading.Event()

    async def step() -> None:
        while not over.is_set():
            begun.set()
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(step)

    alone, interval = schedule(1), sys.getswitchinterval()
    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    begun.wait()
    sys.setswitchinterval(1e-5)
    try:
        assert all(schedule(1) == alone for _ in range(10))
    finally:
        sys.setswitchinterval(interval)
        over.set()
        thread.join()


def test_a_process_that_does_not_unwind_is_named() -> None:
    """Otherwise closing the world would wait for ever for a process that shields itself for ever."""

    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    world = World()
    process = world.spawn("stuck", stubborn)
    world.run_for(1.0)
    world.kill(process)
    with pytest.raises(RuntimeError, match="stuck was killed and does not unwind"):
        world.close()
    # The default handler is back. Otherwise the rest of the process would keep Ctrl-C until it is garbage collected.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def interrupt(log: list[str]) -> None:
    """Act as if Ctrl-C were pressed while this process runs."""
    await trio.sleep(1.0)
    signal.raise_signal(signal.SIGINT)
    log.append("continues")
    await trio.sleep(1.0)
    log.append("too late")


def test_ctrl_c_ends_the_host_and_no_process(world: World) -> None:
    """The user wants to end the tests: no process may catch it, be ended by it, or be interrupted within a step."""
    log: list[str] = []
    process = world.spawn("a", interrupt, log)
    with pytest.raises(KeyboardInterrupt):
        world.run_for(10.0)
    assert log == ["continues"]
    assert not process.ended
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # outside every process: at once
    world.run_for(10.0)
    assert process.ended


def test_ctrl_c_twice_does_not_wait(world: World) -> None:
    """A process whose turn never ends can be interrupted, too."""

    async def busy() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            return
        raise AssertionError

    process = world.spawn("a", busy)
    with pytest.raises(KeyboardInterrupt):
        world.run_for(1.0)
    world.run_for(1.0)
    assert process.outcome is not None
    process.outcome.unwrap()


def test_ctrl_c_while_the_world_is_closed() -> None:
    """It is raised once everything is restored."""

    async def interrupt_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            signal.raise_signal(signal.SIGINT)

    world = World()
    world.spawn("a", interrupt_at_the_end)
    world.run_for(1.0)
    with pytest.raises(KeyboardInterrupt):
        world.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_world_leaves_the_signal_handlers_of_others_alone(world: World) -> None:
    """A world inside another one, or in a thread, changes no signal handler."""
    handler = signal.getsignal(signal.SIGINT)

    def handler_inside() -> object:
        with World() as inner:
            inner.spawn("a", trio.sleep, 1.0)
            inner.run_for(2.0)
            return signal.getsignal(signal.SIGINT)

    assert handler_inside() is handler
    with ThreadPoolExecutor() as threads:
        assert threads.submit(handler_inside).result() is handler
    assert signal.getsignal(signal.SIGINT) is handler
