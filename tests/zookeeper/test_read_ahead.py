"""Reading ahead: every record that is wanted arrives once, and never too much is under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from metafora_trio_zookeeper._connection import Done, ErrorCode, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._session.read_ahead import ReadAhead, Record
from metafora_trio_zookeeper._session.record_sizes import (
    EXPECTED_BYTES_UNDER_WAY,
    MAX_RECORDS_A_READ,
    MAX_RECORDS_UNDER_WAY,
    MOST_BYTES_UNDER_WAY,
    RecordSizes,
)

SMALL, LARGE = 200, 400_000
PATIENCE = 0.7
"""Seconds from which a lost read says something about the sizes."""
NO_AUTH = ErrorCode.NO_AUTH


class Reader:
    """A `ReadAhead` and the requests that it has sent. Records have the sizes that the test gives their tasks."""

    def __init__(self, sizes: RecordSizes | None = None) -> None:
        self.now = 100.0
        self.size: dict[str, int] = {}
        self.forbidden: set[str] = set()
        self.requests: deque[tuple[Sequence[str], Done]] = deque()
        self.arrived: list[tuple[str, Record]] = []
        self.ahead = ReadAhead(
            lambda tasks, done: self.requests.append((tasks, done)),
            lambda task, record: self.arrived.append((task, record)),
            sizes or RecordSizes(),
            lambda: 6 * PATIENCE,
            now=lambda: self.now,
        )

    def want(self, tasks: Sequence[str], size: int) -> None:
        for task in tasks:
            self.size[task] = size
            self.ahead.want(task)
        self.ahead.pump()

    @property
    def under_way(self) -> list[int]:
        """The sizes of the records that are asked for."""
        return [self.size[task] for tasks, _ in self.requests for task in tasks]

    def answer(self) -> None:
        """Answer the oldest request."""
        tasks, done = self.requests.popleft()
        if self.forbidden.intersection(tasks):
            done(RequestError(NO_AUTH))
        else:
            done(Reply(tuple(ReadResult(bytes(self.size[task]), 0, 0, 0) for task in tasks), 1))

    def lose_all(self, *, after: float) -> None:
        """Let some seconds pass, and break the connection."""
        self.now += after
        while self.requests:
            self.requests.popleft()[1](RequestError(ErrorCode.CONNECTION_LOSS))

    def answer_all(self) -> list[int]:
        """Answer all requests. Return how many records were under way before each answer."""
        counts = []
        while self.requests:
            counts.append(len(self.under_way))
            self.answer()
        return counts


def names(count: int, prefix: str = "t") -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


class TestLimits:
    def test_with_small_records_it_soon_reads_many_at_a_time(self) -> None:
        reader = Reader()
        reader.want(names(1000), SMALL)
        counts = reader.answer_all()
        assert max(counts[:40]) == MAX_RECORDS_UNDER_WAY
        assert len(counts) < 40 + 1000 / MAX_RECORDS_A_READ
        assert [task for task, _ in reader.arrived] == names(1000)

    def test_of_large_records_few_are_under_way_from_the_first_on(self) -> None:
        reader = Reader()
        reader.want(names(50), LARGE)
        while reader.requests:
            assert len(reader.requests[0][0]) == 1
            assert sum(reader.under_way) <= max(EXPECTED_BYTES_UNDER_WAY, 4 * LARGE)
            reader.answer()
        assert len(reader.arrived) == 50

    def test_the_first_large_records_after_many_small_ones_slow_it_down_at_once(self) -> None:
        reader = Reader()
        reader.want(names(1000), SMALL)
        reader.want(names(1000, "large"), LARGE)
        seen = 0
        while seen < 2 * MAX_RECORDS_A_READ:
            seen += reader.under_way[0] == LARGE and len(reader.requests[0][0])
            reader.answer()
        # What was asked for before the first of them came is still on its way.
        while len(reader.under_way) > 4:
            before = len(reader.under_way)
            reader.answer()
            assert len(reader.under_way) < before
        assert sum(reader.under_way) <= EXPECTED_BYTES_UNDER_WAY

    def test_a_large_record_is_not_soon_forgotten(self) -> None:
        """Many small records follow, and the next large ones come all at once; also in the next session."""
        sizes = RecordSizes()
        first = Reader(sizes)
        first.want(["large"], LARGE)
        first.want(names(1000), SMALL)
        first.answer_all()
        second = Reader(sizes)
        second.want(names(100), LARGE)
        assert sum(second.under_way) <= 1.3 * MOST_BYTES_UNDER_WAY  # it has faded a little

    @given(st.integers(1, 300), st.lists(st.sampled_from([0, 100, 3_000, 50_000, 900_000]), max_size=300))
    def test_not_even_the_largest_records_of_late_are_too_much(self, small: int, drawn: list[int]) -> None:
        sizes, largest = RecordSizes(), 0
        for size in [*drawn, *[SMALL] * small]:
            sizes.add(size)
            largest = max(largest, size)
            assert 1 <= sizes.per_read <= sizes.under_way <= MAX_RECORDS_UNDER_WAY
            assert sizes.under_way == 1 or sizes.under_way * largest * 0.85 <= MOST_BYTES_UNDER_WAY

    def test_reads_that_are_lost_again_and_again_get_smaller(self) -> None:
        """Small records teach nothing about the large ones that follow, and no reply to those ever comes."""
        sizes, under_way = RecordSizes(), list[int]()
        for _ in range(8):
            reader = Reader(sizes)
            reader.want(names(300), SMALL)
            reader.answer_all()
            reader.want(names(300, "large"), LARGE)
            under_way.append(len(reader.under_way))
            reader.lose_all(after=PATIENCE + 0.1)
        assert under_way[0] == MAX_RECORDS_UNDER_WAY
        assert under_way == sorted(under_way, reverse=True)
        assert under_way[-1] < 15

    @pytest.mark.parametrize("count, after", [(300, PATIENCE - 0.1), (1, 60.0)])
    def test_an_ordinary_reconnect_teaches_nothing(self, count: int, after: float) -> None:
        """Neither a read that was lost soon, nor a single one, which cannot get any smaller."""
        sizes = RecordSizes()
        reader = Reader(sizes)
        reader.want(names(1000), SMALL)
        reader.answer_all()
        reader.want(names(count, "u"), SMALL)
        reader.lose_all(after=after)
        assert sizes.under_way == MAX_RECORDS_UNDER_WAY
        assert sizes.per_read == MAX_RECORDS_A_READ


class TestRecords:
    def test_one_that_is_refused_does_not_hide_those_that_were_read_with_it(self) -> None:
        reader = Reader()
        reader.want(names(200), SMALL)
        reader.answer_all()
        reader.arrived.clear()
        reader.forbidden = {"u3"}
        reader.want(names(20, "u"), SMALL)
        reader.answer_all()
        refused = [task for task, record in reader.arrived if isinstance(record, RequestError)]
        assert refused == ["u3"]
        assert sorted(task for task, _ in reader.arrived) == sorted(names(20, "u"))

    async def test_one_that_nobody_wants_any_more_is_neither_read_nor_kept(self) -> None:
        reader = Reader()
        reader.want(names(50), LARGE)
        sent = {task for tasks, _ in reader.requests for task in tasks}
        for task in names(50):
            reader.ahead.unwant(task)
        assert sum(reader.answer_all()) == sum(range(len(sent) + 1)), "no other request has followed"
        assert reader.arrived == []
        assert len(sent) < 10
        assert await reader.ahead.take("t0") is None

    async def test_one_that_somebody_waits_for_stays_wanted(self, autojump_clock: trio.testing.MockClock) -> None:
        reader, taken = Reader(), list[tuple[Record] | None]()
        reader.want(names(50), SMALL)

        async def take() -> None:
            taken.append(await reader.ahead.take("t49"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            reader.ahead.unwant("t49")
            reader.answer_all()
        assert taken == [(ReadResult(bytes(SMALL), 0, 0, 0),)]

    async def test_one_that_is_wanted_again_while_its_read_is_under_way_is_read_once(self) -> None:
        reader = Reader()
        reader.want(["t"], SMALL)
        reader.ahead.unwant("t")
        reader.ahead.want("t")
        reader.answer_all()
        assert [task for task, _ in reader.arrived] == ["t"]
        assert await reader.ahead.take("t") is not None
        assert await reader.ahead.take("t") is None

    async def test_after_a_reconnect_nothing_is_wanted(self, autojump_clock: trio.testing.MockClock) -> None:
        """All replies of the old connection are lost before that, so each reader has to ask again."""
        reader, taken = Reader(), list[tuple[Record] | None]()
        reader.want(names(500), LARGE)

        async def take(task: str) -> None:
            taken.append(await reader.ahead.take(task))

        async with trio.open_nursery() as nursery:
            for task in ("t0", "t499"):
                nursery.start_soon(take, task)
            await trio.testing.wait_all_tasks_blocked()
            for _, done in list(reader.requests):
                done(RequestError(ErrorCode.CONNECTION_LOSS))
            reader.requests.clear()
            reader.ahead.clear()
            assert not reader.requests
        assert taken == [None, None]
        reader.want(["new"], SMALL)
        assert [tasks for tasks, _ in reader.requests] == [["new"]]

    async def test_one_that_may_have_changed_is_not_given_to_anybody(self) -> None:
        reader = Reader()
        for drop in (reader.ahead.forget, reader.ahead.unwant, lambda task: reader.ahead.clear()):
            reader.want(["t"], SMALL)
            reader.answer_all()
            drop("t")
            assert await reader.ahead.take("t") is None

    async def test_one_that_is_wanted_twice_is_read_once(self) -> None:
        reader = Reader()
        reader.want(["t"], SMALL)
        reader.want(["t"], SMALL)
        reader.answer_all()
        reader.want(["t"], SMALL)  # it is there already
        assert not reader.requests
        assert len(reader.arrived) == 1

    async def test_a_refusal_is_not_kept_for_later_callers(self) -> None:
        reader = Reader()
        reader.forbidden = {"t"}
        reader.want(["t"], SMALL)
        reader.answer_all()
        assert await reader.ahead.take("t") is None
        reader.forbidden = set()
        reader.want(["t"], SMALL)
        reader.answer_all()
        assert await reader.ahead.take("t") == (ReadResult(bytes(SMALL), 0, 0, 0),)

    async def test_taking_one_is_a_checkpoint(self) -> None:
        reader = Reader()
        reader.want(["t"], SMALL)
        reader.answer_all()
        with trio.testing.assert_checkpoints():
            await reader.ahead.take("t")
        with trio.testing.assert_checkpoints():
            await reader.ahead.take("t")

    async def test_two_that_are_refused_together_are_read_one_by_one(self) -> None:
        """Also the first of them may be the good one."""
        reader = Reader()
        reader.want(names(200), SMALL)
        reader.answer_all()
        reader.arrived.clear()
        reader.forbidden = {"u1"}
        for task in names(2, "u"):
            reader.size[task] = SMALL
            reader.ahead.want(task)
        reader.ahead.pump()
        assert [len(tasks) for tasks, _ in reader.requests] == [2]
        reader.answer()
        assert [len(tasks) for tasks, _ in reader.requests] == [1, 1]
        reader.answer_all()
        assert [task for task, record in reader.arrived if isinstance(record, ReadResult)] == ["u0"]

    async def test_those_to_be_read_alone_are_dropped_by_a_reconnect(self) -> None:
        reader = Reader()
        reader.want(names(200), SMALL)
        reader.answer_all()
        reader.forbidden = {"u3"}
        reader.want(["large"], 20 * LARGE)
        reader.want(names(20, "u"), SMALL)
        assert [len(tasks) for tasks, _ in reader.requests] == [1, 20]
        reader.answer()  # so few are read at a time from now on
        reader.answer()
        assert 0 < len(reader.requests) < 20
        for _, done in list(reader.requests):
            done(RequestError(ErrorCode.CONNECTION_LOSS))
        reader.requests.clear()
        reader.ahead.clear()
        reader.want(["new"], SMALL)
        assert [tasks for tasks, _ in reader.requests] == [["new"]]

    @given(st.lists(st.tuples(st.sampled_from("wufab"), st.integers(0, 30), st.sampled_from([SMALL, LARGE]))))
    def test_whatever_is_wanted_arrives(self, steps: list[tuple[str, int, int]]) -> None:
        """Steps: want a task, stop wanting it, forget it, answer a request; or break the connection."""
        reader, wanted = Reader(), set[str]()
        for step, number, size in steps:
            task = f"t{number}"
            if step == "w":
                wanted.add(task)
                reader.want([task], size)
            elif step == "u":
                wanted.discard(task)
                reader.ahead.unwant(task)
            elif step == "f":
                reader.ahead.forget(task)
            elif step == "a" and reader.requests:
                reader.answer()
            elif step == "b":
                wanted.clear()
                while reader.requests:
                    reader.requests.popleft()[1](RequestError(ErrorCode.CONNECTION_LOSS))
                reader.ahead.clear()
        reader.answer_all()
        assert wanted <= {task for task, _ in reader.arrived}
        reader.ahead.clear()
        reader.want(["last"], SMALL)
        assert reader.requests
