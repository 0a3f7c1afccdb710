"""Batch: sends many small units of writes in few transactions.

A znode written in its own transaction costs twenty times as much as one of many. A unit holds the operations that must
happen together (those for one task), so it is never split. A transaction is all or nothing, so a failure says nothing
about the units other than the refused one. The refused unit is settled. The others are sent again in two halves, since
sending them one by one would be quadratic when many are refused.

At most two transactions are in flight. Their replies come after the events that they cause at this node, so during a
cold start each of many nodes writes only as fast as it can read. Their bytes are limited too, because on a slow link
the heartbeats wait behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metafora_trio import Claim
from metafora_trio.contract import AsyncBool
from metafora_trio_zookeeper._connection import Connection, Create, Reply, RequestError, SetData, WriteOp
from metafora_trio_zookeeper._layout import MAX_OPS, MAX_REQUEST_BYTES
from metafora_trio_zookeeper._replies import is_broken

__all__ = ["Batch", "Unit", "take", "unit_size"]

MAX_IN_FLIGHT = 2
MAX_BYTES_IN_FLIGHT = 256 << 10
"""The bytes in flight, unless a single unit takes more."""
_OP_OVERHEAD = 64
"""Bytes of an operation besides its path and data: header, lengths, flags and an ACL of the usual length."""


@dataclass(slots=True, eq=False)
class Unit:
    """Operations that happen together or not at all.

    Attributes:
        ops: the operations.
        settle: called with the outcome: None, or the error with the index of the operation *within the unit*. Not
            called if the connection broke, since the outcome is then unknown.
        task: the task it is about. For a command's removal, the command's name.
        claim: our claim that it gives up, or None.
        read: whether to read the task's record ahead as soon as the transaction has been sent.
    """

    ops: tuple[WriteOp, ...]
    settle: Callable[[Unit, RequestError | None], None]
    task: str = ""
    claim: Claim | None = None
    read: bool = False


def unit_size(unit: Unit) -> int:
    """Return about how many bytes a unit adds to a request."""
    size = 0
    for op in unit.ops:
        size += _OP_OVERHEAD + len(op.path)
        if isinstance(op, Create | SetData):
            size += len(op.data)
    return size


def take(queue: deque[Unit], limit: int = MAX_REQUEST_BYTES) -> list[Unit]:
    """Remove from the queue's head as many whole units as fit into one transaction of so many bytes, but at least one
    if there is one."""
    units: list[Unit] = []
    ops = size = 0
    while queue:
        unit = queue[0]
        ops += len(unit.ops)
        size += unit_size(unit)
        if units and (ops > MAX_OPS or size > limit):
            break
        units.append(queue.popleft())
    return units


class Batch:
    """The queue of units of one connection.

    Args:
        connection: the connection to send them on.
        read_ahead: called with the tasks of units that want their records read, when a transaction has been sent.
    """

    def __init__(self, connection: Connection, read_ahead: Callable[[Sequence[str]], None]) -> None:
        self._connection = connection
        self._read_ahead = read_ahead
        self._queue: deque[Unit] = deque()
        self._halves: deque[list[Unit]] = deque()
        self._in_flight = 0
        self._bytes = 0
        self._open = False
        self._wake = AsyncBool()

    def add(self, unit: Unit) -> None:
        """Queue a unit. It is sent when the batch is open, and not before the next turn of the event loop, so that
        units added in the same step share a transaction."""
        self._queue.append(unit)
        if self._in_flight < MAX_IN_FLIGHT:
            self._wake.value = True

    def open(self) -> None:
        """Send from now on."""
        self._open = True
        self._wake.value = True

    def close(self) -> None:
        """Send nothing until reopened, and drop the queue."""
        self._open = False
        self._queue.clear()
        self._halves.clear()

    async def run(self) -> None:
        """Send the queued units, until cancelled."""
        while True:
            await self._wake.wait_value(True)
            self._wake.value = False
            self._pump()

    def _pump(self) -> None:
        while self._open and self._in_flight < MAX_IN_FLIGHT and (units := self._next()):
            self._send(units)

    def _next(self) -> list[Unit]:
        """Remove and return the units of the next transaction; none if it must wait for those in flight."""
        room = MAX_BYTES_IN_FLIGHT - self._bytes
        first = self._halves[0] if self._halves else [self._queue[0]] if self._queue else []
        if self._in_flight and sum(map(unit_size, first)) > room:
            return []
        return self._halves.popleft() if self._halves else take(self._queue, room)

    def _send(self, units: list[Unit]) -> None:
        size = sum(map(unit_size, units))
        self._in_flight += 1
        self._bytes += size
        ops = [op for unit in units for op in unit.ops]
        self._connection.transact(ops, lambda reply: self._answered(units, size, reply))
        if tasks := [unit.task for unit in units if unit.read]:
            self._read_ahead(tasks)

    def _answered(self, units: list[Unit], size: int, reply: Reply | RequestError) -> None:
        self._in_flight -= 1
        self._bytes -= size
        if isinstance(reply, Reply):
            for unit in units:
                unit.settle(unit, None)
        elif is_broken(reply):
            self._wake.value = True  # not in this step: the batch is about to be closed
            return
        else:
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
