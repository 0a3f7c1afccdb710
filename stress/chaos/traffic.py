"""What users do in a chaos run: submit, delete, stop and balance; and what they see of the tasks' ends.

The client talks to the servers themselves. Only what a server has acknowledged is written into the history: what failed
may or may not have happened.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio

from metafora_trio import Client, CoordinatorUnavailable, MetaforaError, StatusName, Task, TaskChanged, TaskNotFound
from metafora_trio.testing.history import EventName, History

__all__ = ["Traffic"]

_PERIOD = 1.0
_HELD = 20.0
"""Seconds to find out whether a node is held: servers may be away for a while, but not for longer."""
_SHORT = (1.0, 4.0)
"""Seconds that a short task takes."""


class Traffic:
    """The client of one run.

    Args:
        client: talks to the cluster.
        history: where to write what was acknowledged.
        burst: how many tasks to submit at a time; deletes and stops are half as many.
        surprises: where to write that a task has failed.

    Attributes:
        lasting: tasks that run until they are deleted, and have been acknowledged.
    """

    def __init__(self, client: Client, history: History, *, burst: int, surprises: list[str]) -> None:
        self.client = client
        self.lasting: list[str] = []
        self._history = history
        self._burst = burst
        self._surprises = surprises
        self._short: dict[str, None] = {}
        self._count = 0

    async def submit(self, tasks: Sequence[Task]) -> None:
        """Submit, and note what was acknowledged."""
        await self.client.submit(tasks)
        for task in tasks:
            self._history.record(EventName.SUBMIT, task=task.id)
            if "seconds" in task.props:
                self._short[task.id] = None
            else:
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
        """Delete some of the lasting tasks; returns when all deletes are acknowledged."""
        some = self._some(amount)
        for task in some:  # all at once: another burst may choose while this one waits for its answers
            self.lasting.remove(task)
        for task in some:
            await self._delete(task)
        return f"{len(some)} tasks"

    async def _delete(self, task: str) -> None:
        while True:
            try:
                await self.client.delete(task)
            except TaskNotFound:
                pass  # an attempt before, whose answer was lost, has deleted it
            except CoordinatorUnavailable:
                await trio.sleep(_PERIOD)
                continue
            self._history.record(EventName.DELETE, task=task)
            return

    async def stop_burst(self, amount: float) -> str:
        """Tell the owners of some tasks to give them back."""
        stopped = 0
        for task in self._some(amount):
            try:
                await self.client.stop_task(task)
                stopped += 1
            except TaskNotFound:
                continue  # between two owners, just now
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
        """Undo `freeze` wherever it is seen, until it is seen nowhere; returns whether it was anywhere.

        Raises:
            trio.TooSlowError: after 20 s it was still seen, or nothing at all.
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
                    pass  # the servers are away, or the node is: look again
                await trio.sleep(0.5)

    async def follow_ends(self) -> None:
        """Note the ends of short tasks as soon as they are seen, until cancelled."""
        while True:
            with trio.move_on_after(_PERIOD):
                try:
                    async with self.client.watch() as changes:
                        # A watch tells neither of tasks that were gone before it, nor of those that came and went.
                        await self.look_for_ends()
                        async for change in changes:
                            if isinstance(change, TaskChanged) and change.status is None:
                                await self._look_for_end(change.id)
                except CoordinatorUnavailable:
                    await trio.sleep_forever()

    async def look_for_ends(self) -> None:
        """Note the ends of short tasks."""
        try:
            listed = {status.id for status in await self.client.tasks()}
            for task in [task for task in self._short if task not in listed]:
                await self._look_for_end(task)
        except CoordinatorUnavailable:
            await trio.lowlevel.checkpoint()  # what is not noted now is noted later

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
            if status.state is not StatusName.COMPLETED:
                self._surprises.append(f"{task} has ended as {status.state}")

    def _some(self, amount: float) -> Sequence[str]:
        return random.Random(amount).sample(self.lasting, min(len(self.lasting), max(1, self._burst // 2)))
