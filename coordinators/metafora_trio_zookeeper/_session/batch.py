"""Batching of writes: many small units in few transactions.

A transaction of one znode costs twenty times what that znode costs among many. A unit is what must happen together
(the operations of one task), so it is never split. A transaction is all or nothing, so its failure says nothing about
the units beside the one that was refused. That one is settled; the others are sent again in two halves, since sending
them one by one would be quadratic when many are refused.

At most two transactions are in flight. Their replies come behind the events that they cause at this node, so a cold
start of many nodes paces itself by what each of them can take in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from metafora_trio import Claim
from metafora_trio.contract import AsyncBool
from metafora_trio_zookeeper._connection import Connection, Create, ReadResult, Reply, RequestError, SetData, WriteOp
from metafora_trio_zookeeper._layout import MAX_OPS, MAX_REQUEST_BYTES
from metafora_trio_zookeeper._replies import is_broken

__all__ = ["Batch", "Unit", "take", "unit_size"]

MAX_IN_FLIGHT = 2
_OP_OVERHEAD = 64
"""Bytes of an operation besides path and data: header, lengths, flags and an ACL of the usual length."""


@dataclass(slots=True, eq=False)
class Unit:
    """Operations that happen together or not at all.

    Attributes:
        ops: the operations.
        settle: called with how it ended: None, or the error with the index of the operation *within the unit*. Not
            called when the connection broke: then its end is unknown.
        task: which task it is about.
        claim: which claim of ours it gives up.
        read: a path to read right behind the transaction, or the empty string.
    """

    ops: tuple[WriteOp, ...]
    settle: Callable[[Unit, RequestError | None], None]
    task: str = ""
    claim: Claim | None = None
    read: str = ""


def unit_size(unit: Unit) -> int:
    """About how many bytes a unit adds to a request."""
    size = 0
    for op in unit.ops:
        size += _OP_OVERHEAD + len(op.path)
        if isinstance(op, Create | SetData):
            size += len(op.data)
    return size


def take(queue: deque[Unit]) -> list[Unit]:
    """Take from the queue's head what fits into one transaction: at least one unit, never half of one."""
    units: list[Unit] = []
    ops = size = 0
    while queue:
        unit = queue[0]
        ops += len(unit.ops)
        size += unit_size(unit)
        if units and (ops > MAX_OPS or size > MAX_REQUEST_BYTES):
            break
        units.append(queue.popleft())
    return units


class Batch:
    """The queue of units of one connection.

    Args:
        connection: where to send them.
        on_read: called with a unit and what its `read` brought: the znode, None for no such znode, or the error with
            which the reads of a whole transaction were refused.
    """

    def __init__(
        self, connection: Connection, on_read: Callable[[Unit, ReadResult | RequestError | None], None]
    ) -> None:
        self._connection = connection
        self._on_read = on_read
        self._queue: deque[Unit] = deque()
        self._halves: deque[list[Unit]] = deque()
        self._in_flight = 0
        self._open = False
        self._wake = AsyncBool()

    def add(self, unit: Unit) -> None:
        """Queue a unit. It is sent once the batch is open, and a turn of the event loop later, so that what is asked
        for together travels together."""
        self._queue.append(unit)
        if self._in_flight < MAX_IN_FLIGHT:
            self._wake.value = True

    def open(self) -> None:
        """Send from now on."""
        self._open = True
        self._wake.value = True

    def close(self) -> None:
        """Send nothing for now; forget what is queued."""
        self._open = False
        self._queue.clear()
        self._halves.clear()

    async def run(self) -> None:
        """Send what is added, until cancelled."""
        while True:
            await self._wake.wait_value(True)
            self._wake.value = False
            self._pump()

    def _pump(self) -> None:
        while self._open and self._in_flight < MAX_IN_FLIGHT and (self._halves or self._queue):
            self._send(self._halves.popleft() if self._halves else take(self._queue))

    def _send(self, units: list[Unit]) -> None:
        self._in_flight += 1
        ops = [op for unit in units for op in unit.ops]
        self._connection.transact(ops, lambda reply: self._answered(units, reply))
        if readers := [unit for unit in units if unit.read]:
            self._connection.read([unit.read for unit in readers], lambda reply: self._read(readers, reply))

    def _answered(self, units: list[Unit], reply: Reply | RequestError) -> None:
        self._in_flight -= 1
        if isinstance(reply, Reply):
            for unit in units:
                unit.settle(unit, None)
        elif not is_broken(reply):
            self._refused(units, reply)
        self._pump()

    def _refused(self, units: list[Unit], error: RequestError) -> None:
        if len(units) == 1:
            units[0].settle(units[0], error)
            return
        others = units
        if error.index is not None:
            first = 0
            for place, unit in enumerate(units):
                if error.index < first + len(unit.ops):
                    unit.settle(unit, RequestError(error.code, error.index - first))
                    others = units[:place] + units[place + 1 :]
                    break
                first += len(unit.ops)
        middle = len(others) // 2
        self._halves.extend(half for half in (others[:middle], others[middle:]) if half)

    def _read(self, units: list[Unit], reply: Reply | RequestError) -> None:
        if isinstance(reply, Reply):
            for unit, result in zip(units, reply.value, strict=True):
                self._on_read(unit, result)
        elif not is_broken(reply):
            for unit in units:
                self._on_read(unit, reply)
