"""The client of a simulated cluster: makes the requests of a test, and records which were acknowledged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from metafora_trio import Client, Coordinator, CoordinatorUnavailable, MetaforaError, TaskNotFound, open_client
from metafora_trio.testing.history import EventName

from ._monitor import Monitor
from ._runs import Place
from ._submissions import Submission, Submissions

__all__ = ["CLIENT", "Expectations", "SimulatedClient"]

CLIENT = "client"
"""The name of the client's place. If it is a process of its own, faults of a node's process or links can strike it."""

Ask = Callable[[Client], Awaitable[None]]


class Expectations:
    """The clients' requests, and the outcome that they require.

    Attributes:
        there: for each task whose outcome is known, whether it must exist (a recorded end counts) or be gone.
        deleted: the tasks that any client ever asked to delete.
        stopped: for each task, how often its owner was asked to give it back.
        leaving: the names of the nodes told to leave.
        submissions: every submission, with its outcome.
        refused: the tasks about which the broker ever refused something.
        refused_alone: the maximum number of seconds for which a node may leave such a task alone.
    """

    def __init__(self) -> None:
        self.there: dict[str, bool] = {}
        self.deleted: set[str] = set()
        self.stopped: Counter[str] = Counter()
        self.leaving: set[str] = set()
        self.submissions: Submissions = Submissions()
        self.refused: set[str] = set()
        self.refused_alone: float = 0.0
        self._latest: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()

    @property
    def left_alone(self) -> float:
        """The maximum number of seconds for which a node may leave alone a task that it gave back."""
        return max([self.refused_alone, *(min(2.0 ** (count - 1), 60.0) for count in self.stopped.values())])

    def asked(self, task: str, *, there: bool) -> int | None:
        """Record that a client begins to submit a task, or to delete it (not `there`).

        The outcome is unknown until the request is answered. It stays unknown if two such requests overlap.

        Returns:
            The number to pass to `answered`; None if the request overlaps another.
        """
        if not there:
            self.deleted.add(task)
            self.submissions.delete(task)
        self.there.pop(task, None)
        crosses = self._unanswered[task] > 0
        self._unanswered[task] += 1
        self._latest[task] += 1
        return None if crosses else self._latest[task]

    def answered(self, task: str, number: int | None, *, there: bool | None) -> None:
        """Record the answer: from now on the task must exist (`there`) or be gone. With None the outcome is unknown."""
        self._unanswered[task] -= 1
        if there is not None and number == self._latest[task]:
            self.there[task] = there


class SimulatedClient:
    """A real `Client`. The creator must spawn `run` in a process and set `place`.

    Args:
        coordinator: gives access to the broker.
        expectations: records requests and their answers.
        monitor: records acknowledged requests.

    Attributes:
        place: where it runs.
        outstanding: the number of unanswered requests.
    """

    place: Place

    def __init__(self, coordinator: Coordinator, expectations: Expectations, monitor: Monitor) -> None:
        self.outstanding: int = 0
        self._coordinator = coordinator
        self._expectations = expectations
        self._monitor = monitor
        self._send, self._receive = trio.open_memory_channel[Ask](math.inf)

    def ask(
        self, ask: Ask, task: str | None = None, *, there: bool = True, submission: Submission | None = None
    ) -> None:
        """Queue a request, which is made once the client is connected.

        Args:
            ask: makes the request.
            task: the task that it submits or deletes; None for other requests.
            there: whether that task must exist once the request is done.
            submission: the submission that it makes, if any.
        """
        number = None if task is None else self._expectations.asked(task, there=there)
        self.outstanding += 1

        async def do(client: Client) -> None:
            done = False
            try:
                await ask(client)
                done = True
            except MetaforaError as error:  # refused, or its outcome is unknown: both happen in any cluster
                if task is not None and not there and isinstance(error, TaskNotFound):
                    self._expectations.submissions.delete_answered(task)
                return
            finally:
                self.outstanding -= 1
                if task is not None:
                    self._expectations.answered(task, number, there=there if done else None)
            if submission is not None:
                submission.acknowledged = True
            if task is not None:
                if not there:
                    self._expectations.submissions.delete_answered(task)
                self._monitor.client_saw(EventName.SUBMIT if there else EventName.DELETE, task)

        self.place.call(self._send.send_nowait, do)

    async def run(self) -> None:
        """Make the queued requests until cancelled. While the broker is unavailable, connect again after 1 s."""
        while True:
            try:
                async with open_client(self._coordinator) as client, trio.open_nursery() as nursery:
                    async for ask in self._receive:
                        nursery.start_soon(ask, client)
            except CoordinatorUnavailable:
                await trio.sleep(1.0)
