"""Batching: no unit is split, none is lost, and none is sent again after it succeeded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio_zookeeper._connection import (
    Check,
    Create,
    Delete,
    Done,
    ErrorCode,
    Reply,
    RequestError,
    WriteOp,
)
from metafora_trio_zookeeper._layout import MAX_OPS, MAX_REQUEST_BYTES
from metafora_trio_zookeeper._session.batch import MAX_BYTES_IN_FLIGHT, Batch, Unit, take, unit_size
from tests.support.zookeeper.scripted_zookeeper import ScriptedConnection, ScriptedZooKeeper


class Server(ScriptedConnection):
    """A connection that answers on `answer`, and refuses each operation whose path is bad."""

    def __init__(self) -> None:
        super().__init__(ScriptedZooKeeper(), 1)
        self.transactions: list[list[str]] = []
        self.waiting: deque[tuple[Sequence[WriteOp], Done]] = deque()
        self.bad: set[str] = set()
        self.done: list[str] = []

    def transact(self, ops: Sequence[WriteOp], done: Done) -> None:
        self.transactions.append([op.path for op in ops])
        self.waiting.append((ops, done))

    def answer(self) -> None:
        """Answer the oldest transaction."""
        ops, done = self.waiting.popleft()
        for index, op in enumerate(ops):
            if op.path in self.bad:
                done(RequestError(ErrorCode.NO_NODE, index))
                return
        self.done += [op.path for op in ops]
        done(Reply(tuple(None for _ in ops), 1))


class Outcomes(list[tuple[str, ErrorCode | None, int | None]]):
    """The outcomes of units, in order."""

    def unit(self, *paths: str, read: bool = False, size: int = 0) -> Unit:
        ops = tuple(Create(path, b"x" * size) if size else Delete(path) for path in paths)
        return Unit(ops, self.settle, task=paths[0], read=read)

    def settle(self, unit: Unit, error: RequestError | None) -> None:
        self.append((unit.task, error.code if error else None, error.index if error else None))


def make() -> tuple[Server, Outcomes, Batch, list[Sequence[str]]]:
    server, reads = Server(), list[Sequence[str]]()
    batch = Batch(server, reads.append)
    batch.open()
    return server, Outcomes(), batch, reads


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 10, 200_000, 500_000])), min_size=1, max_size=300))
def test_take_splits_no_unit_and_keeps_the_order(shapes: list[tuple[int, int]]) -> None:
    outcomes = Outcomes()
    units = [
        outcomes.unit(*[f"/{n}/{k}" for k in range(ops)], size=size // ops) for n, (ops, size) in enumerate(shapes)
    ]
    queue, taken = deque(units), list[list[Unit]]()
    while queue:
        taken.append(take(queue))
    assert [unit for group in taken for unit in group] == units
    for group, following in zip(taken, [*taken[1:], None], strict=True):
        ops, size = sum(len(unit.ops) for unit in group), sum(map(unit_size, group))
        assert len(group) == 1 or (ops <= MAX_OPS and size <= MAX_REQUEST_BYTES)
        if following is not None:  # as full as can be
            first = following[0]
            assert ops + len(first.ops) > MAX_OPS or size + unit_size(first) > MAX_REQUEST_BYTES


async def run_with(batch: Batch) -> trio.CancelScope:
    """Start the batch's task. Cancel the returned scope to end it."""
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await batch.run()

    trio.lowlevel.spawn_system_task(run)
    await trio.testing.wait_all_tasks_blocked()
    return scope


async def test_units_added_together_share_a_transaction(autojump_clock: trio.testing.MockClock) -> None:
    server, outcomes, batch, _ = make()
    await run_with(batch)
    for n in range(300):
        batch.add(outcomes.unit(f"/{n}"))
        assert server.transactions == []  # never inside the call
    await trio.testing.wait_all_tasks_blocked()
    assert [len(ops) for ops in server.transactions] == [128, 128]  # two in flight, no more
    server.answer()
    assert [len(ops) for ops in server.transactions] == [128, 128, 44]
    server.answer()
    server.answer()
    assert outcomes == [(f"/{n}", None, None) for n in range(300)]


async def test_nothing_is_sent_in_the_step_of_a_loss(autojump_clock: trio.testing.MockClock) -> None:
    """The replies fail before the batch is closed. What it sent then would only fail, too."""
    server, outcomes, batch, reads = make()
    await run_with(batch)
    for n in range(600):
        batch.add(outcomes.unit(f"/{n}", read=True))
    await trio.testing.wait_all_tasks_blocked()
    for _, done in list(server.waiting):
        done(RequestError(ErrorCode.CONNECTION_LOSS))
    batch.close()
    await trio.testing.wait_all_tasks_blocked()
    assert (len(server.transactions), len(reads)) == (2, 2)
    batch.add(outcomes.unit("/new"))
    batch.open()
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions[2:] == [["/new"]]


async def test_the_refused_unit_is_settled_and_the_others_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    server, outcomes, batch, _ = make()
    await run_with(batch)
    server.bad.add("/2/b")
    for n in range(5):
        batch.add(outcomes.unit(f"/{n}/a", f"/{n}/b", f"/{n}/c"))
    await trio.testing.wait_all_tasks_blocked()
    server.answer()
    assert outcomes == [("/2/a", ErrorCode.NO_NODE, 1)]  # the index within the unit
    assert [[path[1] for path in ops[::3]] for ops in server.transactions[1:]] == [["0", "1"], ["3", "4"]]
    server.answer()
    server.answer()
    assert [name for name, error, _ in outcomes if error is None] == ["/0/a", "/1/a", "/3/a", "/4/a"]
    assert len(server.done) == 12


async def test_a_failure_without_index_is_halved_down(autojump_clock: trio.testing.MockClock) -> None:
    server, outcomes, batch, _ = make()
    await run_with(batch)
    for n in range(4):
        batch.add(outcomes.unit(f"/{n}"))
    await trio.testing.wait_all_tasks_blocked()
    while server.waiting:
        ops, done = server.waiting.popleft()
        done(RequestError(ErrorCode.OTHER) if any(op.path == "/1" for op in ops) else Reply((), 1))
    assert sorted(outcomes) == [
        ("/0", None, None),
        ("/1", ErrorCode.OTHER, None),
        ("/2", None, None),
        ("/3", None, None),
    ]


@given(st.integers(1, 200), st.sets(st.integers(0, 199)), st.data())
def test_each_unit_is_settled_once_with_its_outcome(count: int, bad: set[int], data: st.DataObject) -> None:
    async def main() -> None:
        server, outcomes, batch, _ = make()
        scope = await run_with(batch)
        server.bad = {f"/{n}/a" for n in bad}
        for n in range(count):
            batch.add(outcomes.unit(f"/{n}/a", f"/{n}/b"))
        await trio.testing.wait_all_tasks_blocked()
        transactions = 0
        while server.waiting:
            server.answer()
            transactions += 1
        refused = {f"/{n}/a" for n in bad if n < count}
        assert sorted(outcomes) == sorted(
            (f"/{n}/a", ErrorCode.NO_NODE if f"/{n}/a" in refused else None, 0 if f"/{n}/a" in refused else None)
            for n in range(count)
        )
        assert sorted(server.done) == sorted(
            f"/{n}/{k}" for n in range(count) if f"/{n}/a" not in refused for k in "ab"
        )
        assert transactions <= 2 * len(refused) + count // 64 + 1
        scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_no_unit_is_settled_when_the_connection_breaks(autojump_clock: trio.testing.MockClock) -> None:
    """Their outcomes are unknown; the view shows them after the reconnect. Nothing of the old queue is sent then."""
    server, outcomes, batch, _ = make()
    await run_with(batch)
    for n in range(400):
        batch.add(outcomes.unit(f"/{n}"))
    await trio.testing.wait_all_tasks_blocked()
    waiting = [server.waiting.popleft()[1] for _ in range(2)]
    batch.close()
    for done in waiting:
        done(RequestError(ErrorCode.CONNECTION_LOSS))
    batch.add(outcomes.unit("/while away"))
    await trio.testing.wait_all_tasks_blocked()
    assert (outcomes, len(server.transactions)) == ([], 2)
    batch.close()
    batch.open()
    batch.add(outcomes.unit("/new"))
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions[2:] == [["/new"]]


async def test_tasks_are_read_ahead_once_their_transaction_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    server, outcomes, batch, reads = make()
    await run_with(batch)
    for n in range(300):
        batch.add(outcomes.unit(f"/{n}", read=n % 2 == 0))
    await trio.testing.wait_all_tasks_blocked()
    assert reads == [[f"/{n}" for n in range(0, 128, 2)], [f"/{n}" for n in range(128, 256, 2)]]
    server.answer()
    assert reads[2:] == [[f"/{n}" for n in range(256, 300, 2)]]
    server.answer()
    batch.add(Unit((Delete("/end"),), outcomes.settle, task="/end"))  # a unit that does not ask for a read costs none
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions[3:] == [["/end"]]
    assert len(reads) == 3


@pytest.mark.parametrize("refuse", [False, True])
async def test_few_bytes_are_in_flight(autojump_clock: trio.testing.MockClock, refuse: bool) -> None:
    """A heartbeat waits behind what was sent before it: at most 256 KiB, or one unit that is larger."""
    server, outcomes, batch, _ = make()
    await run_with(batch)
    sizes = [100_000] * 5 + [900_000] * 3 + [200_000] * 3
    server.bad = {"/1", "/6", "/9"} if refuse else set()
    for n, size in enumerate(sizes):
        batch.add(outcomes.unit(f"/{n}", size=size))
    await trio.testing.wait_all_tasks_blocked()
    while server.waiting:
        waiting = [len(op.data) for ops, _ in server.waiting for op in ops if isinstance(op, Create)]
        assert sum(waiting) <= MAX_BYTES_IN_FLIGHT == 262_144 or len(waiting) == 1
        server.answer()
    assert sorted(int(task[1:]) for task, _, _ in outcomes) == list(range(len(sizes)))
    assert {task for task, error, _ in outcomes if error} == server.bad


def test_the_size_counts_paths_and_data() -> None:
    unit = Unit((Create("/a", b"x" * 1000), Check("/b")), Outcomes().settle)
    assert 1004 < unit_size(unit) < 1200
    longer = Unit((Create("/aaa", b"x" * 1000), Check("/bbbbb")), Outcomes().settle)
    assert unit_size(longer) == unit_size(unit) + 6


@pytest.mark.parametrize("size", [MAX_REQUEST_BYTES + 1])
def test_a_unit_that_is_too_large_alone_goes_alone(size: int) -> None:
    outcomes = Outcomes()
    queue = deque([outcomes.unit("/a", size=size), outcomes.unit("/b")])
    assert [[unit.task for unit in take(queue)] for _ in range(2)] == [["/a"], ["/b"]]


async def test_nothing_is_sent_while_closed_and_nothing_old_after_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A decision made on one connection must not take effect on the next. Neither must the halves of a refused one."""
    server, outcomes = Server(), Outcomes()
    batch = Batch(server, lambda tasks: None)
    await run_with(batch)
    batch.add(outcomes.unit("/early"))
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions == []
    batch.open()  # nothing else wakes it
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions == [["/early"]]
    server.answer()
    # Both that are in flight are refused for their first unit, so the other five and 100 wait as halves.
    server.bad = {"/a0", "/b0"}
    for n in range(6):
        batch.add(outcomes.unit(f"/a{n}"))
    await trio.testing.wait_all_tasks_blocked()
    for n in range(101):
        batch.add(outcomes.unit(f"/b{n}"))
    await trio.testing.wait_all_tasks_blocked()
    server.answer()
    server.answer()
    sent = len(server.transactions)
    batch.close()
    for _, done in [*server.waiting]:
        done(RequestError(ErrorCode.CONNECTION_LOSS))
    batch.open()
    batch.add(outcomes.unit("/late"))
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions[sent:] == [["/late"]]


async def test_answered_bytes_are_in_flight_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """Otherwise a session would become slow: one small transaction at a time."""
    server, outcomes, batch, _ = make()
    await run_with(batch)
    for n in range(20):
        batch.add(outcomes.unit(f"/{n}", size=100_000))
        await trio.testing.wait_all_tasks_blocked()
        server.answer()
    for n in range(2):
        batch.add(outcomes.unit(f"/last{n}", size=100_000))
        await trio.testing.wait_all_tasks_blocked()
    assert len(server.waiting) == 2


async def test_the_next_unit_decides_whether_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    """Units keep their order: a small one behind a large one does not overtake it."""
    server, outcomes, batch, _ = make()
    await run_with(batch)
    batch.add(outcomes.unit("/first", size=100_000))
    await trio.testing.wait_all_tasks_blocked()
    batch.add(outcomes.unit("/large", size=MAX_BYTES_IN_FLIGHT))
    batch.add(outcomes.unit("/small"))
    await trio.testing.wait_all_tasks_blocked()
    assert server.transactions == [["/first"]]
    server.answer()
    assert server.transactions[1] == ["/large"]


def test_a_request_may_be_exactly_full() -> None:
    outcomes = Outcomes()
    units = [outcomes.unit("/a"), outcomes.unit("/b")]
    limit = sum(map(unit_size, units))
    assert len(take(deque(units), limit)) == 2
    assert len(take(deque(units), limit - 1)) == 1
