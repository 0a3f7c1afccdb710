"""User traffic in a chaos run: submits, deletes, `stop_task`, `balance`, and the ends of tasks that a user sees.

The client connects to the servers directly, without proxies. Only acknowledged requests are written into the history,
because a failed one may or may not have happened.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio

from metafora_trio import Client, CoordinatorUnavailable, MetaforaError, Task, TaskChanged, TaskNotFound, TaskStatusName
from metafora_trio.testing.history import EventName, History

__all__ = ["Traffic"]

_PERIOD = 1.0
_HELD = 20.0
"""Seconds within which it must be known whether a node is frozen. Servers may be away for a while, but not longer."""
_SHORT = (1.0, 4.0)
"""The least and the most seconds that a short task takes."""


class Traffic:
    """The client of one run.

    Args:
        client: the client of the cluster.
        history: records acknowledged requests and the ends of tasks.
        burst: the number of tasks to submit at a time; bursts of deletes and stops are half as large.
        surprises: the list to which failed tasks are added.

    Attributes:
        lasting: the acknowledged tasks that run until they are deleted.
    """

    def __init__(self, client: Client, history: History, *, burst: int, surprises: list[str]) -> None:
        self.client = client
        self.lasting: list[str] = []
        self._history = history
        self._burst = burst
        self._surprises = surprises
        self._short: dict[str, None] = {}
        self._count = 0

    async def submit(self, tasks: Sequence[Task], *, lasting: bool = True) -> None:
        """Submit tasks, and record those that were acknowledged.

        Args:
            tasks: the tasks.
            lasting: False if the caller deletes them. Then no burst does.
        """
        await self.client.submit(tasks)
        for task in tasks:
            self._history.record(EventName.SUBMIT, task=task.id)
            if "seconds" in task.props:
                self._short[task.id] = None
            elif lasting:
                self.lasting.append(task.id)

    async def submit_burst(self, amount: float) -> str:
        """Submit new tasks, half of them short."""
        tasks = []
        for place in range(self._burst):
            self._count += 1
            props = {"seconds": _SHORT[0] + (_SHORT[1] - _SHORT[0]) * place / self._burst} if place % 2 else {}
            tasks.append(Task(f"burst-{self._count}", props))
        try:
            await self.submit(tasks)
        except MetaforaError as error:
            return f"may or may not have happened: {error}"
        return f"{len(tasks)} tasks"

    async def delete_burst(self, amount: float) -> str:
        """Delete some of the lasting tasks. Return when all deletes are acknowledged."""
        some = self._some(amount)
        for task in some:  # remove all first: another burst may choose while this one waits for its answers
            self.lasting.remove(task)
        for task in some:
            await self.delete(task)
        return f"{len(some)} tasks"

    async def delete(self, task: str) -> None:
        """Delete a task, and record that it was acknowledged. Return only then."""
        while True:
            try:
                await self.client.delete(task)
            except TaskNotFound:
                pass  # an earlier attempt deleted it, and its answer was lost
            except CoordinatorUnavailable:
                await trio.sleep(_PERIOD)
                continue
            self._history.record(EventName.DELETE, task=task)
            return

    async def stop_burst(self, amount: float) -> str:
        """Tell the owners of some tasks to give them up."""
        stopped = 0
        for task in self._some(amount):
            try:
                await self.client.stop_task(task)
                stopped += 1
            except TaskNotFound:
                continue  # it has no owner at this moment
            except CoordinatorUnavailable as error:
                return f"{stopped} tasks, then: {error}"
        return f"{stopped} tasks"

    async def balance_all(self) -> str:
        """Tell every node to balance."""
        try:
            for status in await self.client.nodes():
                await self.client.balance(status.node.identity)
        except MetaforaError as error:
            return str(error)
        return ""

    async def unfreeze_all(self) -> bool:
        """Unfreeze nodes until no frozen node is seen. Return whether there was any.

        Raises:
            trio.TooSlowError: after 20 s some node was still frozen, or the nodes could not be listed.
        """
        found = False
        with trio.fail_after(_HELD):
            while True:
                try:
                    held = [status.node.identity for status in await self.client.nodes() if status.node.frozen]
                    for identity in held:
                        found = True
                        await self.client.unfreeze(identity)
                    if not held:
                        return found
                except MetaforaError:
                    pass  # the servers or the node are away: retry
                await trio.sleep(0.5)

    async def follow_ends(self) -> None:
        """Until cancelled, record the ends of short tasks as soon as they are seen."""
        while True:
            with trio.move_on_after(_PERIOD):
                try:
                    async with self.client.watch() as changes:
                        # A watch does not report tasks that had gone before it, nor tasks that came and went unseen.
                        await self.look_for_ends()
                        async for change in changes:
                            if isinstance(change, TaskChanged) and change.status is None:
                                await self._look_for_end(change.id)
                except CoordinatorUnavailable:
                    await trio.sleep_forever()

    async def look_for_ends(self) -> None:
        """Record the ends of short tasks."""
        try:
            listed = {status.id for status in await self.client.tasks()}
            for task in [task for task in self._short if task not in listed]:
                await self._look_for_end(task)
        except CoordinatorUnavailable:
            await trio.lowlevel.checkpoint()  # the next look records them

    async def _look_for_end(self, task: str) -> None:
        if task not in self._short:
            return
        try:
            status = await self.client.get(task)
        except TaskNotFound:
            return  # the checker will find it lost
        if status.ended and task in self._short:
            self._history.record(EventName.DONE, task=task)
            del self._short[task]
            if status.state is not TaskStatusName.COMPLETED:
                self._surprises.append(f"{task} has ended as {status.state}")

    def _some(self, amount: float) -> Sequence[str]:
        return random.Random(amount).sample(self.lasting, min(len(self.lasting), max(1, self._burst // 2)))
