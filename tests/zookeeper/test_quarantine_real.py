"""One bad task costs no other task anything: nodes on a real server whose ACLs refuse something about it."""

from __future__ import annotations

from collections import Counter

import trio
from kazoo.security import CREATOR_ALL_ACL, make_acl

from metafora_trio import Consumer, RunningTask, Task, TaskState, TaskStatusName, open_client
from metafora_trio.contract import RepeatedEvent
from metafora_trio.events import Event, SessionEnded, TaskQuarantined
from metafora_trio_zookeeper import ZooKeeperCoordinator
from metafora_trio_zookeeper._connection import Create, Delete
from metafora_trio_zookeeper._layout import Layout
from metafora_trio_zookeeper.testing.real import Ensemble
from tests.support.zookeeper.connections import PATIENCE, ask, connect

AUTH = [("digest", "submitter:password")]
READ_ONLY = [make_acl("world", "anyone", read=True)]
INNOCENT = [f"i{number:02}" for number in range(12)]
ENDING = ("refused", "parent")


async def test_twelve_innocent_tasks_beside_three_bad_ones(standalone: Ensemble, namespace: str) -> None:
    """One may not be read, the state of one may not be set, and one has a child. The handlers of the two that end run
    once. A node that joins later stays joined."""
    layout, hosts = Layout(f"/{namespace}"), standalone.hosts
    starts: Counter[str] = Counter()
    events: list[Event] = []
    changed = RepeatedEvent()

    async def handler(task: RunningTask) -> None:
        starts[task.id] += 1
        changed.set()
        if task.id not in ENDING:
            await trio.sleep_forever()

    def observe(event: Event) -> None:
        events.append(event)
        changed.set()

    def coordinator() -> ZooKeeperCoordinator:
        return ZooKeeperCoordinator(hosts, namespace=f"/{namespace}", session_timeout=4.0)

    async def until_quarantined(tasks: set[str]) -> None:
        with trio.fail_after(PATIENCE):
            while {event.task for event in events if isinstance(event, TaskQuarantined)} != tasks:
                await changed.wait()

    async with open_client(coordinator()) as client, trio.open_nursery() as nursery:
        await client.submit(Task(id) for id in INNOCENT)
        state, task, runnable = layout.state_path("refused"), layout.task_path("refused"), TaskState().encode()
        async with (
            connect(hosts, auth=AUTH, acl=READ_ONLY) as (reader, _),
            connect(hosts, auth=AUTH, acl=CREATOR_ALL_ACL) as (owner, _),
            connect(hosts) as (anyone, _),
        ):
            await ask(reader.transact, [Create(state, runnable), Create(task, b"{}")])
            await client.submit(Task("parent"))
            await ask(anyone.transact, [Create(f"{layout.task_path('parent')}/note")])
            await ask(anyone.transact, [Create(layout.state_path("secret"), runnable)])
            await ask(owner.transact, [Create(layout.task_path("secret"), b"{}")])
            for name in "abc":
                node = Consumer(coordinator(), handler, name=name, settle=0.1, observers=[observe])
                await nursery.start(lambda task_status, node=node: node.run(task_status=task_status))
            await until_quarantined({"refused", "parent", "secret"})
            with trio.fail_after(PATIENCE):
                while not set(INNOCENT) <= starts.keys():
                    await changed.wait()
            assert starts == Counter([*INNOCENT, *ENDING])
            late = Consumer(coordinator(), handler, name="late", observers=[observe])
            await nursery.start(lambda task_status: late.run(task_status=task_status))
            notices: list[str] = []
            with trio.fail_after(PATIENCE):
                while f"the end of task 'refused' cannot be written: no auth at {state}" not in notices:
                    notices = [notice for status in await client.nodes() for notice in status.node.notices]
            # Anyone may delete the state, since its directory permits that, and create it again.
            await ask(anyone.transact, [Delete(state), Create(state, runnable)])
            await ask(anyone.transact, [Delete(f"{layout.task_path('parent')}/note")])
            ends = await client.wait(ENDING, timeout=PATIENCE)
            assert {status.state for status in ends.values()} == {TaskStatusName.COMPLETED}
        assert [starts[task] for task in ENDING] == [1, 1]
        assert [event for event in events if isinstance(event, SessionEnded)] == []
        nursery.cancel_scope.cancel()
