"""Work on many chunks, a few at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import trio

from metafora_trio import MetaforaError

__all__ = ["chunks_of", "for_each_chunk"]

T = TypeVar("T")


def chunks_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split items into groups of `size`, and a smaller last one."""
    return (items[first : first + size] for first in range(0, len(items), size))


async def for_each_chunk(chunks: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Call `work` with each chunk, up to `at_once` at a time. A checkpoint.

    Raises:
        MetaforaError: the first that `work` raised. No further chunk was begun; those under way were finished.
    """
    waiting = iter(chunks)
    problems: list[MetaforaError] = []

    async def run() -> None:
        for chunk in waiting:
            if problems:
                return
            try:
                await work(chunk)
            except MetaforaError as problem:
                problems.append(problem)

    await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(run)
    if problems:
        raise problems[0]
