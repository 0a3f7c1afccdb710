"""The client of a simulated cluster. It does what it is asked to, and notes what was acknowledged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from metafora_trio import Client, Coordinator, CoordinatorUnavailable, MetaforaError, open_client
from metafora_trio.testing.history import EventName

from ._monitor import Monitor
from ._runs import Place

__all__ = ["Expectations", "SimulatedClient"]

Ask = Callable[[Client], Awaitable[None]]


class Expectations:
    """Records what clients have asked for, and what must be so for that reason.

    Attributes:
        there: whether a task must be there (if only as the record of its end), or gone, where that is known.
        deleted: the tasks that a client ever asked to delete.
        stopped: how often the owner of a task was asked to give it back.
        leaving: the names of the nodes that were asked to leave.
    """

    def __init__(self) -> None:
        self.there: dict[str, bool] = {}
        self.deleted: set[str] = set()
        self.stopped: Counter[str] = Counter()
        self.leaving: set[str] = set()
        self._latest: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()

    @property
    def left_alone(self) -> float:
        """The longest time, in seconds, for which a node may leave a task alone that it was asked to give back."""
        return max((min(2.0 ** (count - 1), 60.0) for count in self.stopped.values()), default=0.0)

    def asked(self, task: str, *, there: bool) -> int | None:
        """Note that a client begins to submit a task, or (not `there`) to delete it.

        Until that is answered, nothing is known of the task. The same is true where two such requests cross.

        Returns:
            The number to hand to `answered`.
        """
        if not there:
            self.deleted.add(task)
        self.there.pop(task, None)
        crosses = self._unanswered[task] > 0
        self._unanswered[task] += 1
        self._latest[task] += 1
        return None if crosses else self._latest[task]

    def answered(self, task: str, number: int | None, *, there: bool | None) -> None:
        """Note that it was done, so that the task must be there, or gone. None: nobody knows what became of it."""
        self._unanswered[task] -= 1
        if there is not None and number == self._latest[task]:
            self.there[task] = there


class SimulatedClient:
    """A real `Client`. Its creator has a process run it, and sets `place`.

    Args:
        coordinator: how it reaches the broker.
        expectations: takes what is asked for and what was acknowledged.
        monitor: takes what was acknowledged.

    Attributes:
        place: where it runs.
        outstanding: how many requests have not been answered.
    """

    place: Place

    def __init__(self, coordinator: Coordinator, expectations: Expectations, monitor: Monitor) -> None:
        self.outstanding: int = 0
        self._coordinator = coordinator
        self._expectations = expectations
        self._monitor = monitor
        self._send, self._receive = trio.open_memory_channel[Ask](math.inf)

    def ask(self, ask: Ask, task: str | None = None, *, there: bool = True) -> None:
        """Have it do something as soon as it is connected.

        Args:
            ask: what to do.
            task: the task that this submits or deletes, if it does.
            there: whether that task is there afterwards.
        """
        number = None if task is None else self._expectations.asked(task, there=there)
        self.outstanding += 1

        async def do(client: Client) -> None:
            done = False
            try:
                await ask(client)
                done = True
            except MetaforaError:  # it cannot be done, or nobody knows whether it was: both happen in any cluster
                return
            finally:
                self.outstanding -= 1
                if task is not None:
                    self._expectations.answered(task, number, there=there if done else None)
            if task is not None:
                self._monitor.client_saw(EventName.SUBMIT if there else EventName.DELETE, task)

        self.place.call(self._send.send_nowait, do)

    async def run(self) -> None:
        """Do what is asked for, for ever."""
        while True:
            try:
                async with open_client(self._coordinator) as client, trio.open_nursery() as nursery:
                    async for ask in self._receive:
                        nursery.start_soon(ask, client)
            except CoordinatorUnavailable:
                await trio.sleep(1.0)
