"""Garbage: znodes that are not Metafora's, for every path of its layout.

This is written without the library's own layout, so that a mistake there cannot make the garbage harmless.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from zlib import crc32

__all__ = ["NAMESPACE", "PAYLOADS", "bucket", "garbage"]

NAMESPACE = "/metafora"
_BUCKETS = 64

PAYLOADS = {
    "deep": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "unclosed": b'{"a":' * 5000,
    "nan": b'{"capacity":NaN,"since":NaN,"a":NaN}',
    "infinite": b'{"capacity":1e999,"since":1e999,"a":-1e999}',
    "huge": b'{"capacity":' + b"9" * 5000 + b"}",
    "not-utf8": b'{"name":"\xff\xfe"}',
    "large": b'{"pad":"' + b"x" * 900_000 + b'"}',
    "twice": b'{"deleted":true,"deleted":false,"a":1,"a":2}',
    "surrogate": b'{"name":"\\ud800","name2":"\\udc00"}',
    "types": b'{"name":[],"capacity":"9","since":{},"tags":7,"draining":"no","state":[],"errors":3,"props":[]}',
    "null": b"null",
    "list": b"[]",
    "text": b'"text"',
    "empty": b"",
}
"""Records by a name. Nearly all are refused by every decoder of Metafora."""


def bucket(task: str, *, off: int = 0) -> str:
    """Return the bucket of a task, or with `off` another one."""
    return f"{(crc32(task.encode()) + off) % _BUCKETS:02}"


def garbage(nodes: Sequence[str], victims: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield paths and data, parents first.

    Args:
        nodes: the identities of live nodes, which get commands.
        victims: tasks that exist. Claims are put into their queues.
    """
    numbers = count(1)
    for name, data in PAYLOADS.items():
        number = next(numbers)
        task, state, both = f"poison-task-{name}", f"poison-state-{name}", f"poison-both-{name}"
        yield f"nodes/poison-{name}.{number:010}", data
        for node in (*nodes, "ghost.0000000000"):
            yield f"node_commands/{node}~{2_000_000_000 + number}", data
        yield f"tasks/{bucket(task)}/{task}", data
        yield f"states/{bucket(state)}/{state}", data
        yield f"states/{bucket(both)}/{both}", data
        yield f"tasks/{bucket(both)}/{both}", data
        yield f"commands/{bucket(task)}/{task}~{number:010}", data
        yield (
            f"claims/{bucket(task)}/poison-nobody~ghost.0000000000~c~{number:010}",
            data,
        )  # nearly always a wrong bucket
        for directory in ("tasks", "states", "commands", "claims"):
            yield f"{directory}/{bucket(task, off=1)}/{task}", data
    for number, victim in enumerate(victims):
        queue = f"claims/{bucket(victim)}/{victim}~ghost.0000000000"
        sequence = 0 if number % 2 else 2_000_000_000
        yield f"{queue}~c~{sequence:010}", b""
        yield f"{queue}~b~{sequence + 1:010}", b"{"
    yield f"nodes/0.{'0' * 10}", b""  # the first node by name
    endless = "1" + "0" * 5000  # more digits than `int` takes
    yield f"node_commands/ghost.0000000000~{endless}", b""
    yield f"claims/{bucket('t')}/t~ghost.0000000000~c~{endless}", b""
    # Names with too few or too many fields, with other characters, and children of what has none.
    names = ("~", "a~", "~a", "a~b~c", "a~b.0000000000~z~1", "a~b.0000000000~c~-1", "a b", "ä", "x" * 200, "..x", "%2F")
    for directory in ("nodes", "node_commands", "tasks/00", "claims/00", "states/00", "commands/00"):
        for name in names:
            yield f"{directory}/{name}", b"{"
    for path in ("nodes/a b", "node_commands/~", "tasks/00/a b", "claims/00/a b", "states/00/a b", "commands/00/a b"):
        yield f"{path}/child", b"{"
        yield f"{path}/child/grandchild", b"{"
    for directory in ("tasks/64", "tasks/zz", "claims/64", "states/-1", "commands/064", "strange", "strange/child"):
        yield directory, b"{"
