"""The nemesis: injects the faults of a schedule, and records each with its times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import trio

from metafora_trio import CoordinatorUnavailable, NodeNotFound
from metafora_trio_zookeeper.testing.real import TcpProxy

from .cluster import ChaosCluster, ChaosNode
from .faults import KINDS, Fault, FaultKind, drain_limit
from .packets import dropping
from .poison import Poison
from .records import FaultRecord, append_record
from .server_faults import Action, ServerFaults, shimmed
from .traffic import Traffic

__all__ = ["Nemesis"]

_JOINED = 10.0
"""Seconds to wait until a node that crashes again and again has joined."""
_CRASH = 2.0
"""Seconds from its join to its crash."""


class Nemesis:
    """Injects the faults of a schedule.

    Args:
        cluster: the cluster to disturb.
        traffic: sends the user commands.
        say: reports progress.
    """

    def __init__(self, cluster: ChaosCluster, traffic: Traffic, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self._say = say
        self._servers = ServerFaults(cluster)
        self._actions: Mapping[FaultKind, Action] = {
            **{kind: partial(action, self) for kind, action in _ACTIONS.items()},
            **self._servers.actions,
            **Poison(cluster, traffic).actions,
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """Inject all faults. Return when the last is healed."""
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for fault in faults:
                nursery.start_soon(self._perform, fault, begin)

    async def _perform(self, fault: Fault, begin: float) -> None:
        await trio.sleep_until(begin + fault.at)
        async with self._servers.lock if "server" in KINDS[fault.kind].target else nullcontext():
            await self._inject(fault)

    async def _inject(self, fault: Fault) -> None:
        record = FaultRecord(fault.kind, fault.target, time.monotonic_ns(), alone=fault.alone)
        self._say(f"{fault.kind} {fault.target} for {fault.seconds:.1f} s".replace(" for 0.0 s", ""))
        try:
            await self._actions[fault.kind](fault, record)
        finally:
            record.end = time.monotonic_ns()
            append_record(self._cluster.folder, record)
            if record.note:
                self._say(f"{fault.kind} {fault.target}: {record.note}")

    # ---- nodes

    async def _kill(self, fault: Fault, record: FaultRecord) -> None:
        await self._cluster.nodes[fault.target].kill()
        await trio.sleep(fault.seconds)
        self._cluster.restart(fault.target)

    async def _freeze(self, fault: Fault, record: FaultRecord) -> None:
        node = self._cluster.nodes[fault.target]
        node.freeze()
        try:
            await trio.sleep(fault.seconds)
        finally:
            node.thaw()

    async def _drain(self, fault: Fault, record: FaultRecord) -> None:
        node = self._cluster.nodes[fault.target]
        end = trio.current_time() + fault.seconds
        if fault.amount < 0.5:
            node.drain()
            record.note = "by signal"
        else:
            node.expect_end()
            record.note = await self._ask(lambda: self._traffic.client.drain(fault.target)) or "by command"
        await self._wait_drained(node, record)
        await trio.sleep_until(end)
        self._cluster.restart(fault.target)

    async def _join(self, fault: Fault, record: FaultRecord) -> None:
        node = self._cluster.start(fault.target)
        await trio.sleep(fault.seconds)
        node.drain()
        await self._wait_drained(node, record)

    async def _namesake(self, fault: Fault, record: FaultRecord) -> None:
        names = [f"n{number}" for number in range(1, self._cluster.terms.nodes + 1)]
        record.note = alias = names[int(fault.amount * len(names))]
        node = self._cluster.start(fault.target, alias=alias)
        node.expect_end()  # a command to its name reaches both
        await trio.sleep(fault.seconds)
        node.drain()
        await self._wait_drained(node, record)

    async def _crash_loop(self, fault: Fault, record: FaultRecord) -> None:
        kills, end = 0, trio.current_time() + fault.seconds
        while trio.current_time() < end:
            node = self._cluster.start(fault.target)
            with trio.move_on_after(_JOINED):
                while not node.joined:  # noqa: ASYNC110 - another process writes the file
                    await trio.sleep(0.05)
            await trio.sleep(_CRASH)
            await node.kill()
            kills += 1
        record.note = f"{kills} kills"

    async def _hold(self, fault: Fault, record: FaultRecord) -> None:
        record.note = await self._ask(lambda: self._traffic.client.freeze(fault.target))
        await trio.sleep(fault.seconds)
        try:
            await self._traffic.unfreeze_all()
        except trio.TooSlowError:
            record.note = "not known to be unfrozen"  # tried again after the last heal, where failing is a surprise

    async def _clock_jump(self, fault: Fault, record: FaultRecord) -> None:
        folder = self._cluster.nodes[fault.target].folder
        jump = round((fault.amount - 0.5) * 2 * 86_400)
        await shimmed(self._cluster, folder / "clock-jump", jump, "s", fault.seconds, record)

    async def _roll_nodes(self, fault: Fault, record: FaultRecord) -> None:
        names = [f"n{number}" for number in range(1, self._cluster.terms.nodes + 1)]
        for turn, name in enumerate(names, 1):
            end = record.start / 1e9 + fault.seconds * turn / len(names)
            node = self._cluster.nodes[name]
            node.drain()
            await self._wait_drained(node, record)
            self._cluster.restart(name)
            await trio.sleep(max(0.0, end - time.monotonic()))

    async def _wait_drained(self, node: ChaosNode, record: FaultRecord) -> None:
        """Wait until a draining node ends, and kill it after the drain limit."""
        if await node.wait_ended(drain_limit(self._cluster.terms.session_timeout)):
            record.late = [*record.late, node.name]

    async def _ask(self, command: Callable[[], Any]) -> str:
        """Send a command. Return the error if it could not be sent, else the empty string."""
        try:
            await command()
        except (CoordinatorUnavailable, NodeNotFound) as error:
            return str(error)
        return ""

    # ---- links

    async def _cut(self, fault: Fault, record: FaultRecord) -> None:
        await self._silence(fault, self._cluster.links(fault.target))

    async def _cut_one(self, fault: Fault, record: FaultRecord) -> None:
        links = self._cluster.links(fault.target)
        used = [link for link in links if link.connections()] or list(links)
        link = used[int(fault.amount * len(used))]
        record.note = f"s{links.index(link) + 1}"
        await self._silence(fault, [link])

    async def _mute(self, fault: Fault, record: FaultRecord) -> None:
        await self._silence(fault, self._cluster.links(fault.target), down=False)

    async def _deaf(self, fault: Fault, record: FaultRecord) -> None:
        await self._silence(fault, self._cluster.links(fault.target), up=False)

    async def _silence(self, fault: Fault, links: Sequence[TcpProxy], *, up: bool = True, down: bool = True) -> None:
        """Let nothing pass for the duration of the fault, in the given directions."""
        if self._cluster.terms.links == "namespaces":
            async with dropping([link.port for link in links], up=up, down=down):
                await trio.sleep(fault.seconds)
            return
        for link in links:
            link.cut(up=up, down=down)
        await trio.sleep(fault.seconds)
        await self._heal(links, lost=fault.amount < 0.5)

    async def _loss(self, fault: Fault, record: FaultRecord) -> None:
        share = 0.02 + 0.38 * fault.amount
        record.note = f"{share:.0%} of the packets"
        async with dropping([link.port for link in self._cluster.links(fault.target)], share=share):
            await trio.sleep(fault.seconds)

    async def _latency(self, fault: Fault, record: FaultRecord) -> None:
        seconds = 0.02 + 0.28 * fault.amount
        record.note = f"{seconds * 1000:.0f} ms each way"
        links = self._cluster.links(fault.target)
        for link in links:
            link.delay(seconds)
        await trio.sleep(fault.seconds)
        for link in links:
            link.delay(0.0)

    async def _reset(self, fault: Fault, record: FaultRecord) -> None:
        await self._heal(self._cluster.links(fault.target), lost=True)

    async def _lose_replies(self, fault: Fault, record: FaultRecord) -> None:
        links = self._cluster.links(fault.target)
        for link in links:
            link.hold_replies()
        await trio.sleep(fault.seconds)
        await self._heal(links, lost=True)

    async def _heal(self, links: Sequence[TcpProxy], *, lost: bool) -> None:
        """Let everything pass again. Held data arrives, or with `lost` is dropped with its connection."""
        for link in links:
            if lost:
                link.drop_all()
            link.heal()
        await trio.lowlevel.checkpoint()

    # ---- user commands

    async def _submit(self, fault: Fault, record: FaultRecord) -> None:
        record.note = await self._traffic.submit_burst(fault.amount)

    async def _delete(self, fault: Fault, record: FaultRecord) -> None:
        record.note = await self._traffic.delete_burst(fault.amount)

    async def _stop(self, fault: Fault, record: FaultRecord) -> None:
        record.note = await self._traffic.stop_burst(fault.amount)

    async def _balance(self, fault: Fault, record: FaultRecord) -> None:
        record.note = await self._traffic.balance_all()


_ACTIONS: Mapping[FaultKind, Callable[[Nemesis, Fault, FaultRecord], Any]] = {
    FaultKind.KILL: Nemesis._kill,
    FaultKind.FREEZE: Nemesis._freeze,
    FaultKind.HICCUP: Nemesis._freeze,
    FaultKind.CUT: Nemesis._cut,
    FaultKind.CUT_ONE: Nemesis._cut_one,
    FaultKind.MUTE: Nemesis._mute,
    FaultKind.DEAF: Nemesis._deaf,
    FaultKind.LATENCY: Nemesis._latency,
    FaultKind.LOSS: Nemesis._loss,
    FaultKind.RESET: Nemesis._reset,
    FaultKind.LOST_REPLIES: Nemesis._lose_replies,
    FaultKind.CLOCK: Nemesis._clock_jump,
    FaultKind.DRAIN: Nemesis._drain,
    FaultKind.JOIN: Nemesis._join,
    FaultKind.HOLD: Nemesis._hold,
    FaultKind.ROLL_NODES: Nemesis._roll_nodes,
    FaultKind.NAMESAKE: Nemesis._namesake,
    FaultKind.CRASH_LOOP: Nemesis._crash_loop,
    FaultKind.SUBMIT: Nemesis._submit,
    FaultKind.DELETE: Nemesis._delete,
    FaultKind.STOP: Nemesis._stop,
    FaultKind.BALANCE: Nemesis._balance,
}
