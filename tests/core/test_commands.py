"""Commands to a node: freeze, unfreeze, balance, stop_task, drain, and those that a node refuses."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
from trio.testing import MockClock

from metafora_trio import Command, CommandName, Consumer, NodeNotFound, TaskNotFound
from metafora_trio._memory.session import MemorySession
from metafora_trio.balancers import FairBalancer
from metafora_trio.contract import ClaimKind, QueuedCommand
from tests.support.nodes import Cluster, Node, open_cluster, run_for_ever


async def freeze(cluster: Cluster, node: Node) -> None:
    """Send the command, and wait until the node is frozen."""
    await cluster.client.freeze(node.identity)
    await cluster.wait_until(lambda: node.consumer.frozen)


def claims(cluster: Cluster) -> int:
    """Return the number of claims and bids in all queues."""
    return sum(map(len, cluster.owners().values()))


async def test_freeze(autojump_clock: MockClock) -> None:
    """A frozen node claims nothing and hands nothing over. Its tasks keep running; other nodes take its share."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        await cluster.client.freeze("a")
        await trio.sleep(1)
        assert (await cluster.client.nodes())[0].node.frozen
        b = await cluster.start("b")
        await cluster.submit("u0", "u1", "u2")
        await trio.sleep(60)
        assert len(a.tasks) == 4
        assert b.tasks == {"u0", "u1", "u2"}
        await cluster.client.freeze("a")  # a second freeze makes no difference
        await cluster.client.unfreeze("a")
        await cluster.submit("v0", "v1", "v2")
        await cluster.wait_until(lambda: len(a.tasks) == len(b.tasks) == 5)
        assert a.told()[-1].startswith("TaskStarted v")


async def test_freeze_withdraws_bids(autojump_clock: MockClock) -> None:
    """Bids by a frozen node are withdrawn. So are bids for a frozen node's tasks, because it never answers them."""
    async with open_cluster() as cluster:
        await cluster.start("a", max_handovers=0)  # never answers a bid
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        b = await cluster.start("b")
        await cluster.wait_until(lambda: claims(cluster) == 4 + 2)
        await cluster.client.freeze("a")
        await cluster.wait_until(lambda: claims(cluster) == 4, within=1)
        await cluster.client.unfreeze("a")
        await cluster.wait_until(lambda: claims(cluster) == 4 + 2)
        await cluster.client.freeze("b")
        await cluster.wait_until(lambda: claims(cluster) == 4, within=1)
        assert b.tasks == set()


async def test_frozen_node_answers_no_bid(autojump_clock: MockClock) -> None:
    """A bid from a node that has not yet seen the freeze is not answered."""
    async with open_cluster() as cluster:
        a, b = await cluster.start("a"), await cluster.start("b", capacity=0)
        await cluster.submit_until_running("t0", "t1", "t2", "t3")
        await freeze(cluster, a)
        a.take_events()
        cluster.coordinator._store.add_claim("t0", b.identity, ClaimKind.BID)
        await trio.sleep(1)
        assert a.told() == []


async def test_freeze_outlasts_the_session(autojump_clock: MockClock) -> None:
    """A frozen node stays frozen in its next session; it can still drain."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await freeze(cluster, a)
        cluster.coordinator.expire(a.identity)
        await cluster.submit("t")
        await trio.sleep(20)
        assert a.tasks == set()
        await cluster.client.drain("a")
        await cluster.wait_until(a.ended.is_set)


async def test_frozen_before_it_joins(autojump_clock: MockClock) -> None:
    """A node that is frozen before it runs claims nothing."""
    async with open_cluster() as cluster:
        consumer = Consumer(cluster.coordinator, run_for_ever, name="a")
        consumer.freeze()
        await cluster.start_consumer(consumer)
        await cluster.submit("t")
        await trio.sleep(10)
        assert (await cluster.client.nodes())[0].node.frozen
        assert dict(consumer.tasks) == {}


@pytest.mark.parametrize("frozen", [True, False])
async def test_frozen_or_unfrozen_while_it_joins(frozen: bool, autojump_clock: MockClock) -> None:
    """A freeze or unfreeze takes effect even if it comes while the node joins, after it has announced its state."""
    async with open_cluster(latency=0.5) as cluster:
        consumer = Consumer(cluster.coordinator, run_for_ever, name="a")
        (consumer.unfreeze if frozen else consumer.freeze)()
        cluster.begin(consumer)
        await trio.sleep(0.25)
        assert consumer.statistics().node is None
        (consumer.freeze if frozen else consumer.unfreeze)()
        await trio.sleep(10)
        assert (await cluster.client.nodes())[0].node.frozen is frozen


async def test_frozen_node_is_no_heir(autojump_clock: MockClock) -> None:
    """A draining node does not wait for frozen nodes to take its tasks."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running("t")
        b = await cluster.start("b")
        await freeze(cluster, b)
        began = trio.current_time()
        await a.consumer.drain()
        assert trio.current_time() - began < 1
        assert cluster.owners() == {}


async def test_frozen_node_drains_to_others(autojump_clock: MockClock) -> None:
    """A frozen node that drains still hands its tasks over."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running("t")
        await cluster.client.freeze("a")
        b = await cluster.start("b")
        await trio.sleep(5)
        await a.consumer.drain()
        await cluster.wait_until(lambda: b.tasks == {"t"}, within=0.1)


async def test_balance_of_a_frozen_node(autojump_clock: MockClock) -> None:
    """On `balance`, a frozen node gives back the tasks that its balancer releases. It still takes none, and without the
    command it gives back none."""

    class Tired(FairBalancer):
        def release(self) -> list[str]:
            return sorted(self.context.running)[:1] if len(self.context.view.nodes) > 1 else []

    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=Tired())
        await cluster.submit_until_running("t0", "t1", "t2")
        await freeze(cluster, a)
        b = await cluster.start("b")
        await trio.sleep(30)
        assert a.tasks == {"t0", "t1", "t2"}
        await cluster.client.balance("a")
        await cluster.wait_until(lambda: (a.tasks, b.tasks) == ({"t1", "t2"}, {"t0"}), within=2)
        await trio.sleep(30)
        assert (a.tasks, b.tasks) == ({"t1", "t2"}, {"t0"})


async def test_balance_of_a_draining_node(autojump_clock: MockClock) -> None:
    """A draining node ignores `balance`, since it gives up every task anyway, once another node takes it."""

    class Tired(FairBalancer):
        def release(self) -> Iterable[str]:
            return self.context.running if len(self.context.view.nodes) > 1 else ()

    async with open_cluster() as cluster:
        a = await cluster.start("a", balancer=Tired())
        await cluster.submit_until_running("t")
        a.consumer.freeze()
        await cluster.start("b", capacity=0)
        await trio.sleep(5)
        a.consumer.start_draining()
        await cluster.client.balance("a")
        await trio.sleep(10)
        assert a.tasks == {"t"}


async def test_balance(autojump_clock: MockClock) -> None:
    """On `balance`, a node plans at once, even while joins settle."""
    async with open_cluster() as cluster:
        await cluster.submit("t")
        a = await cluster.start("a", settle=100.0)
        await trio.sleep(1)
        assert a.tasks == set()
        await cluster.client.balance("a")
        await cluster.wait_until(lambda: a.tasks == {"t"}, within=0.1)
        assert a.told()[1:] == ["CommandDone balance", "TaskClaimed t", "TaskStarted t"]


async def test_stop_task(autojump_clock: MockClock) -> None:
    """On `stop_task`, a node gives the task back. Another node, or the same one after a while, runs it again."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.submit_until_running("t")
        a.take_events()
        await cluster.client.stop_task("t")
        await cluster.wait_until(lambda: cluster.starts["t"] == 2)
        assert a.told() == [
            "TaskStopping t released",
            "CommandDone t stop_task",
            "TaskStopped t released",
            "TaskGivenUp t",
            "TaskClaimed t",
            "TaskStarted t",
        ]


async def test_stop_task_that_is_not_here(autojump_clock: MockClock) -> None:
    """A node that does not run the task rejects the command."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.client.send("a", Command(CommandName.STOP_TASK, "t"))
        await cluster.client.send("a", Command(CommandName.STOP_TASK))
        await trio.sleep(1)
        assert a.told()[1:] == [
            "CommandRejected stop_task task 't' is not running here",
            "CommandRejected stop_task task None is not running here",
        ]
        with pytest.raises(TaskNotFound):
            await cluster.client.stop_task("t")


async def test_drain(autojump_clock: MockClock) -> None:
    """On `drain`, a node hands its tasks over and ends."""
    async with open_cluster() as cluster:
        a, b = await cluster.start("a"), await cluster.start("b")
        await cluster.submit_until_running("t0", "t1")
        await cluster.client.drain("a")
        await cluster.wait_until(a.ended.is_set, within=5)
        await cluster.wait_until(lambda: b.tasks == {"t0", "t1"}, within=0.1)
        with pytest.raises(NodeNotFound):
            await cluster.client.drain("a")


async def test_unknown_and_unreadable_commands(autojump_clock: MockClock) -> None:
    """A command that is unknown or unreadable is reported once and discarded."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.client.send("a", Command("dance"))
        store = cluster.coordinator._store
        unreadable = QueuedCommand("a~9", a.identity, None)
        store._queued_commands[unreadable.id] = unreadable
        store._members[a.identity].inbox.put(unreadable)
        await trio.sleep(1)
        assert a.told()[1:] == ["CommandRejected dance it is unknown", "CommandRejected ? it cannot be read"]
        assert store._queued_commands == {}


async def test_command_is_carried_out_once(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that the broker is slow to discard is not carried out again."""
    monkeypatch.setattr(MemorySession, "discard", lambda self, queued: None)
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        await cluster.client.freeze("a")
        await cluster.client.unfreeze("a")
        await cluster.submit_until_running("t")
        assert a.told()[1:3] == ["CommandDone freeze", "CommandDone unfreeze"]
        assert "CommandDone" not in " ".join(a.told())


async def test_unseen_command_ends_with_the_session(autojump_clock: MockClock) -> None:
    """A command that a node has not seen when its session ends is discarded, and its next session does not see it."""
    async with open_cluster() as cluster:
        a = await cluster.start("a")
        cluster.coordinator.partition(a.identity)
        await cluster.client.freeze("a")
        cluster.coordinator.expire(a.identity)
        await trio.sleep(10)
        assert cluster.coordinator._store._queued_commands == {}
        assert not a.consumer.frozen


async def test_a_name_means_every_node_of_that_name(autojump_clock: MockClock) -> None:
    """Two nodes may share a name. A command to the name goes to both, a command to an identity to one."""
    async with open_cluster() as cluster:
        nodes = [await cluster.start("a"), await cluster.start("a")]
        await cluster.client.freeze(nodes[1].identity)
        await trio.sleep(1)
        assert [node.consumer.frozen for node in nodes] == [False, True]
        await cluster.client.freeze("a")
        await trio.sleep(1)
        assert [node.consumer.frozen for node in nodes] == [True, True]


async def test_discard_lost_in_a_disconnection_is_retried(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is carried out once, and removed in the end."""
    async with open_cluster() as cluster:
        node = await cluster.start("a")
        requests: list[QueuedCommand] = []
        discard = MemorySession.discard

        def lose_the_first(session: MemorySession, queued: QueuedCommand) -> None:
            requests.append(queued)
            if len(requests) > 1:
                discard(session, queued)

        monkeypatch.setattr(MemorySession, "discard", lose_the_first)
        await cluster.client.send("a", Command("dance"))
        await trio.sleep(1)
        await cluster.submit_until_running("t")
        assert cluster.coordinator._store._queued_commands == {}
        assert node.told().count("CommandRejected dance it is unknown") == 1
