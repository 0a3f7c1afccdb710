"""The lists, lookups and reads of a resync, as parts of one burst."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from metafora_trio_zookeeper._connection import Connection, ReadResult, RequestError, Stat
from metafora_trio_zookeeper._layout import MAX_OPS, TOMBSTONE
from metafora_trio_zookeeper._replies import Burst, Slot

__all__ = ["Changed", "changed_of", "list_names", "names_of", "read_many", "results_of"]


class Changed(NamedTuple):
    """The tasks whose znode has changed since they were submitted.

    Attributes:
        deleted: those that are as large as a tombstone, and so probably have one. To read them takes few bytes.
        versions: the versions of all others: an operator has set other properties, of any size.
        refused: the tasks that may not be looked up.
    """

    deleted: list[str]
    versions: dict[str, int]
    refused: list[str]


def changed_of(tasks: Sequence[str], looked_up: Slot) -> Changed:
    """Return those of some tasks that have changed, once the burst in which they were looked up has been answered."""
    assert isinstance(looked_up.value, tuple)
    changed = Changed([], {}, [])
    for task, stat in zip(tasks, looked_up.value, strict=True):
        if isinstance(stat, RequestError):
            changed.refused.append(task)
        elif isinstance(stat, Stat) and stat.version:
            if stat.size == len(TOMBSTONE):
                changed.deleted.append(task)
            else:
                changed.versions[task] = stat.version
    return changed


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
