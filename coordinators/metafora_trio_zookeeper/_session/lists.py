"""The lists and reads of a resync, as parts of one burst."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from metafora_trio_zookeeper._connection import Connection, ReadResult, RequestError
from metafora_trio_zookeeper._layout import MAX_OPS
from metafora_trio_zookeeper._replies import Burst, Slot

__all__ = ["list_names", "names_of", "read_many", "results_of"]


def list_names(connection: Connection, burst: Burst, path: str) -> Slot:
    """Request the names below a path."""
    slot = burst.slot()
    connection.children(path, slot)
    return slot


def read_many(connection: Connection, burst: Burst, paths: Iterable[str]) -> list[Slot]:
    """Request many znodes."""
    slots = []
    rest = iter(paths)
    while chunk := list(itertools.islice(rest, MAX_OPS)):
        slots.append(burst.slot())
        connection.read(chunk, slots[-1])
    return slots


def names_of(slot: Slot) -> list[str]:
    """Return the names that `list_names` requested, once the burst has been answered."""
    names = slot.value
    assert isinstance(names, list)
    return names


def results_of(slots: Iterable[Slot]) -> list[ReadResult | RequestError | None]:
    """Return the results that `read_many` requested, once the burst has been answered."""
    results: list[ReadResult | RequestError | None] = []
    for slot in slots:
        assert isinstance(slot.value, tuple)
        results.extend(slot.value)
    return results
