"""World: many simulated processes in one thread, on virtual time, with the same result every time.

Each `Process` is a Trio run of its own, in guest mode, with a clock of its own. The host is a `World`: a heap of
scheduled calls and a queue of processes that are ready to run. Time jumps, nothing sleeps and no thread is started.
What a test harness does to real processes with signals can be done here at any instant:

* a frozen process (SIGSTOP) gets no turns: nothing in it runs, its timers do not fire, and calls to it wait;
* the machine of a process may be suspended: the process is frozen, and its clock stands still, too;
* a killed process (SIGKILL) never runs again;
* a process's clock may run fast or slow.

Ctrl-C belongs to the host: it ends `World.run_until` with `KeyboardInterrupt`, and no process sees it.

Why this is hard: Trio allows one run per thread, and keeps some of a run's state per thread. Whenever a process runs,
the world therefore puts that process's own state in place: Trio's run context, and Python's hooks for async generators
(under the hooks of another run, that run would close the process's generators at its own end).

The world uses private names of Trio, pinned by a canary test: `GLOBAL_RUN_CONTEXT`, which is the run context, and the
two names by which Trio's own plugin for Hypothesis makes scheduling repeatable.
"""

from __future__ import annotations

import heapq
import itertools
import math
import signal
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import outcome
import trio
from trio._core import _run as trio_run

from ._clock import ProcessClock
from ._scheduling import repeatable_scheduling

__all__ = ["Process", "World"]

_TOO_MANY = 100_000
"""The maximum number of turns at one instant. With more, the processes must be waking each other for ever."""


class Process:
    """A simulated process: one Trio run. Made by `World.spawn`.

    Attributes:
        name: for people.
        frozen: whether it is stopped, to be resumed later.
        dead: whether it was killed.
        outcome: the result of its function; None until that ends. It means nothing for a dead process.
        rate: how fast its clock runs.
    """

    def __init__(
        self, world: World, name: str, async_function: Callable[..., Awaitable[object]], *args: object, rate: float
    ) -> None:
        self.name = name
        self.rate = rate
        self.frozen: bool = False
        self.dead: bool = False
        self.outcome: outcome.Outcome[object] | None = None
        self._world = world
        self._clock = ProcessClock(lambda: world.now, rate)
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ticks: deque[Callable[[], object]] = deque()
        self._context: dict[str, Any] = {}
        self._hooks = sys.get_asyncgen_hooks()
        self._wake_at = math.inf
        self._scope = trio.CancelScope()
        self._leaving = False
        self._thawed = False

        async def main() -> None:
            try:
                with self._scope:
                    await async_function(*args)
            finally:
                self._leaving = True

        with _Active(self):
            trio.lowlevel.start_guest_run(
                main,
                run_sync_soon_threadsafe=self._ticks.append,
                done_callback=self._ended,
                host_uses_signal_set_wakeup_fd=True,
                restrict_keyboard_interrupt_to_checkpoints=True,
                clock=self._clock,
            )
        world._make_ready(self)

    @property
    def ended(self) -> bool:
        """True once its function has returned or raised. For a killed process: true once it has unwound."""
        return self.outcome is not None

    @property
    def time(self) -> float:
        """The time on its clock, in seconds; `trio.current_time()` returns the same inside it."""
        return self._clock.current_time()

    @property
    def suspended(self) -> float:
        """The seconds for which its machine has been suspended so far, as the difference between CLOCK_BOOTTIME and
        CLOCK_MONOTONIC shows them after the machine has woken."""
        return self._clock.stood_still

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run a plain function in this process, for example to deliver a message or cancel a scope.

        It runs at once. In a frozen process the calls run after the thaw, in order. If the process is dead or has
        ended, the call is dropped.
        """
        if self.dead or self.ended:
            return
        if self.frozen or self._thawed:
            self._inbox.append((function, args))
            return
        with _Active(self):
            function(*args)
        self._world._make_ready(self)

    def __repr__(self) -> str:
        state = "dead" if self.dead else "ended" if self.ended else "frozen" if self.frozen else "running"
        return f"<Process {self.name!r} {state}>"

    # ---- for the world

    def _turn(self) -> None:
        """Run the process until nothing in it can run at this instant."""
        if self.frozen or self.ended:
            return
        self._clock.idle_until = None
        with _Active(self):
            if self._thawed:
                # Read the inbox in a task. Trio handles deadlines before tasks, so whatever expired during the freeze
                # is cancelled before the process sees the calls that waited for it.
                self._thawed = False
                trio.lowlevel.spawn_system_task(self._read_inbox)
            # While it shuts down, Trio wakes itself through a socket, and looks idle although it is not.
            while self.outcome is None and (self._clock.idle_until is None or self._leaving):
                self._ticks.popleft()()
        # Every new deadline gets a wake-up of its own. The wake-up of an old deadline finds nothing to do.
        deadline = self._clock.idle_until
        if deadline is not None and deadline < math.inf and deadline != self._wake_at:
            self._wake_at = deadline
            self._world.at(self._clock.when(deadline), self._wake, deadline, self.suspended)

    async def _read_inbox(self) -> None:
        while self._inbox:
            function, args = self._inbox.popleft()
            function(*args)

    def _wake(self, deadline: float, suspended: float) -> None:
        # After a suspend, wake-ups planned before it are too early.
        if deadline == self._wake_at and suspended == self.suspended:
            self._wake_at = math.inf
            self._clock.reached(deadline)
            self._world._make_ready(self)

    def _ended(self, outcome: outcome.Outcome[object]) -> None:
        self.outcome = outcome
        self._inbox.clear()

    def _unwind(self) -> None:
        """Let a dead process clean up, on a time of its own that no other process sees."""
        self.frozen = self._thawed = False
        self._inbox.clear()
        with _Active(self):
            self._scope.cancel()
        for _ in range(_TOO_MANY):  # pragma: no branch - so many turns take longer than a test may
            self._turn()
            if self.ended:
                return
            assert self._clock.idle_until is not None
            if self._clock.idle_until == math.inf:
                break
            self._clock.reached(self._clock.idle_until)
        raise RuntimeError(f"the process {self.name} was killed and does not unwind: it shields itself for ever")


class World:
    """Virtual time, the processes in it, and the scheduled calls. Use it as a context manager.

    Args:
        seed: seeds the random numbers of Trio's scheduler. If all other random numbers are seeded as well, the same
            seed makes the same history.

    Attributes:
        now: seconds since the beginning.
        current: the process whose code runs now; None outside every process.
        processes: every process ever spawned.
    """

    def __init__(self, seed: int = 0) -> None:
        self.now: float = 0.0
        self.current: Process | None = None
        self.processes: list[Process] = []
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._ready: dict[Process, None] = {}
        self._turns = 0
        self._interrupted = False
        self._open = ExitStack()
        self._open.enter_context(repeatable_scheduling(seed))
        self._open.enter_context(self._interrupts())

    # ---- time and processes

    def at(self, when: float, function: Callable[..., object], *args: Any) -> None:
        """Call a plain function at a time, outside every process. Calls due at the same time keep their order."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), function, args))

    def after(self, delay: float, function: Callable[..., object], *args: Any) -> None:
        """Call a plain function `delay` seconds from now, as `at` does."""
        self.at(self.now + delay, function, *args)

    def spawn(
        self, name: str, async_function: Callable[..., Awaitable[object]], *args: object, rate: float = 1.0
    ) -> Process:
        """Start a process. It first runs when the world does.

        Args:
            name: for people.
            async_function: the function to run, with `args`. If it raises, `outcome` holds the exception.
            rate: how fast its clock runs: 1.001 gains a millisecond per second.
        """
        process = Process(self, name, async_function, *args, rate=rate)
        self.processes.append(process)
        return process

    def run_for(self, seconds: float) -> None:
        """Let the world run for some seconds. With 0, run everything that can run now."""
        self.run_until(lambda: False, within=seconds)

    def run_until(self, predicate: Callable[[], object], within: float) -> bool:
        """Let the world run until `predicate` is true, for at most `within` seconds; return whether it is true.

        Raises:
            KeyboardInterrupt: Ctrl-C, in the main thread, if it has Python's default handler.
        """
        end = self.now + within
        while not predicate():
            if not self._step(end):
                self.now = end
                return bool(predicate())
        return True

    # ---- faults

    def freeze(self, process: Process) -> None:
        """Stop a process. Its clock keeps running, as CLOCK_MONOTONIC does."""
        process.frozen = True

    def suspend(self, process: Process) -> None:
        """Suspend a process's machine. Its clock stands still until it wakes, as CLOCK_MONOTONIC does."""
        process.frozen = True
        process._wake_at = math.inf
        process._clock.stop()

    def thaw(self, process: Process) -> None:
        """Resume a frozen process, or wake its machine. Whatever expired in the meantime is cancelled before waiting
        calls run."""
        if process.frozen:
            process.frozen, process._thawed = False, True
            process._clock.resume()
            self._make_ready(process)

    def kill(self, process: Process) -> None:
        """End a process at once."""
        process.dead = True
        self._ready.pop(process, None)

    def close(self) -> None:
        """End all processes. Nothing that they do while they unwind counts, because they are dead."""
        for process in self.processes:
            self.kill(process)
        try:
            for process in self.processes:
                process._unwind()
        finally:
            self._heap.clear()
            self._open.close()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----

    def _make_ready(self, process: Process) -> None:
        if not (process.frozen or process.dead):
            self._ready[process] = None

    @contextmanager
    def _interrupts(self) -> Generator[None]:
        """Keep Ctrl-C away from the processes. Otherwise the Trio run of the first one would handle it.

        An interrupt during a process's turn waits for the end of the turn; a second one does not wait.
        """
        main_thread = threading.current_thread() is threading.main_thread()
        if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield  # not the default handler, or not the main thread: Trio's runs leave SIGINT alone, too
            return

        def interrupt(*_: object) -> None:
            if self.current is None or self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._raise_interrupt()

    def _raise_interrupt(self) -> None:
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def _step(self, end: float) -> bool:
        """Run the next turn or scheduled call that is due by `end`; return whether there was one."""
        self._raise_interrupt()
        if self._ready:
            self._turns += 1
            if self._turns > _TOO_MANY:
                raise RuntimeError(f"time is stuck at {self.now}: {list(self._ready)} wake each other for ever")
            process = next(iter(self._ready))
            del self._ready[process]
            process._turn()
            return True
        if not self._heap or self._heap[0][0] > end:
            return False
        when, _, function, args = heapq.heappop(self._heap)
        if when > self.now:
            self.now = when
            self._turns = 0
        function(*args)
        return True


class _Active:
    """Runs the body inside a process: with its own run context and its own hooks for async generators."""

    __slots__ = ("_before", "_hooks", "_outside", "_process")

    def __init__(self, process: Process) -> None:
        self._process = process

    def __enter__(self) -> None:
        process, context = self._process, trio_run.GLOBAL_RUN_CONTEXT.__dict__
        self._before, self._outside, self._hooks = process._world.current, context.copy(), sys.get_asyncgen_hooks()
        process._world.current = process
        context.clear()
        context.update(process._context)
        sys.set_asyncgen_hooks(*process._hooks)

    def __exit__(self, *_: object) -> None:
        process, context = self._process, trio_run.GLOBAL_RUN_CONTEXT.__dict__
        process._context, process._hooks = context.copy(), sys.get_asyncgen_hooks()
        context.clear()
        context.update(self._outside)
        sys.set_asyncgen_hooks(*self._hooks)
        process._world.current = self._before
