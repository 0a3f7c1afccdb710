"""Programs for the differential test: drawn at random, and run on a simulated ZooKeeper and on a real one.

A program is a list of steps; in each step one of a few sessions acts. After each step everything is left to settle, and
each session then shows what it has seen since the step before, in order: states, events, replies.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from metafora_trio_zookeeper._connection import (
    Check,
    ConnectionState,
    Create,
    Delete,
    EventType,
    ReadResult,
    Reply,
    RequestError,
    SetData,
    WriteOp,
)

__all__ = [
    "KINDS",
    "SESSIONS",
    "Action",
    "Observer",
    "Stat",
    "Step",
    "Trace",
    "compare",
    "count",
    "draw_step",
    "ranked",
]

SESSIONS = 3
_NAMES = ("a", "b", "c")
_DEPTH = 3
_VERSIONS = (-1, -1, -1, 0, 1, 2)
_DATA = (b"", b"1", b"\xff22")


class Action(NamedTuple):
    """One call: the name of a method of the connection, or "reopen", and its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()


class Step(NamedTuple):
    """The actions of a session at one time: requests that do not wait for each other, or one drop or reopen."""

    session: int
    actions: tuple[Action, ...]


class Zxid(NamedTuple):
    """A transaction id. Only its order among others can be compared."""

    value: int


class Stat(NamedTuple):
    """Everything that ZooKeeper reports about a znode, except its times and data."""

    czxid: Zxid
    mzxid: Zxid
    pzxid: Zxid
    version: int
    cversion: int
    owner: int
    children: int
    length: int


Trace = list[list[list[Any]]]
"""The entries that each session has seen, by step and then by session."""


@dataclass
class Observer:
    """A `Sink` that records what one session sees. Callbacks of requests call `on_reply`."""

    seen: list[Any] = field(default_factory=list)
    replies: int = 0
    notify: Callable[[], None] = lambda: None

    def on_state(self, state: ConnectionState) -> None:
        self._add(state.value)

    def on_event(self, event: EventType, path: str) -> None:
        self._add((event.name, path))

    def on_reply(self, index: int, answer: Reply | RequestError) -> None:
        """Record the reply to the step's request number `index`."""
        self.replies += 1
        if isinstance(answer, RequestError):
            self._add((index, answer.code.name, answer.index))
        else:
            value = sorted(answer.value) if isinstance(answer.value, list) else answer.value
            self._add((index, value, Zxid(answer.zxid)))

    def take(self) -> list[Any]:
        """Return what was seen since the last call."""
        seen, self.seen, self.replies = self.seen, [], 0
        return seen

    def _add(self, entry: Any) -> None:
        self.seen.append(entry)
        self.notify()


# ---- drawing


def draw_step(rng: random.Random, root: str, live: Sequence[str]) -> Step:
    """Draw a step, mostly on znodes that exist (`live`, below `root`)."""
    session = rng.randrange(SESSIONS)
    chance = rng.randrange(100)
    if chance >= 97:
        return Step(session, (Action("reopen"),))
    if chance >= 93:
        return Step(session, (Action("drop"),))
    draw = _Draw(rng, root, live)
    return Step(session, tuple(draw.action() for _ in range(rng.choice((1, 1, 1, 2, 3)))))


class _Draw:
    def __init__(self, rng: random.Random, root: str, live: Sequence[str]) -> None:
        self._rng = rng
        self._root = root
        self._live = live

    def action(self) -> Action:
        chance = self._rng.randrange(100)
        if chance < 60:
            return Action("transact", (tuple(self._write() for _ in range(self._rng.choice((1, 1, 1, 2, 3)))),))
        if chance < 70:
            return Action("read", (tuple(self._anything() for _ in range(self._rng.choice((1, 2)))),))
        if chance < 78:
            return Action("children", (self._anything(),))
        if chance < 83:
            return Action("exists", (tuple(self._anything() for _ in range(self._rng.choice((1, 2)))),))
        if chance < 88:
            return Action("stat", (self._anything(), self._rng.random() < 0.3))
        if chance < 94:
            return Action("heartbeat", (self._anything(), 0.0))
        return Action("add_watch", (self._rng.choice((self._root, self._anything())),))

    def _write(self) -> WriteOp:
        rng, chance = self._rng, self._rng.randrange(100)
        if chance < 35:
            return Create(self._new(), rng.choice(_DATA), ephemeral=rng.random() < 0.4)
        if chance < 50:
            path = f"{rng.choice([self._root, *self._live])}/{rng.choice(('s-', ''))}"
            return Create(path, rng.choice(_DATA), ephemeral=rng.random() < 0.5, sequential=True)
        if chance < 75:
            return Delete(self._existing(), rng.choice(_VERSIONS))
        if chance < 90:
            return SetData(self._existing(), rng.choice(_DATA), rng.choice(_VERSIONS))
        return Check(self._existing(), rng.choice(_VERSIONS))

    def _new(self) -> str:
        name = self._rng.choice(_NAMES)
        if self._rng.randrange(12) == 11:
            return f"{self._root}/{self._rng.choice(_NAMES)}/{name}"
        parents = [path for path in (self._root, *self._live) if path.count("/") <= _DEPTH]
        return f"{self._rng.choice(parents)}/{name}"

    def _existing(self) -> str:
        return self._rng.choice(self._live) if self._live and self._rng.random() < 0.85 else self._new()

    def _anything(self) -> str:
        return self._rng.choice((self._root, self._existing(), self._existing()))


# ---- comparing


def ranked(trace: Trace, owners: Sequence[int]) -> Trace:
    """Return a trace with zxids replaced by ranks, and sessions numbered in the order of opening (`owners`)."""
    ranks = {zxid: rank for rank, zxid in enumerate(sorted(set(_zxids(trace))))}
    sessions = {owner: number for number, owner in enumerate(owners, 1)} | {0: 0}

    def replace(item: Any) -> Any:
        if isinstance(item, Zxid):
            return f"zxid {ranks[item]}"
        if isinstance(item, ReadResult):
            return ("read", item.data, item.version, sessions[item.ephemeral_owner])
        if isinstance(item, Stat):
            zxids = [ranks[zxid] for zxid in (item.czxid, item.mzxid, item.pzxid)]
            return ("stat", *zxids, item.version, item.cversion, sessions[item.owner], item.children, item.length)
        if isinstance(item, list | tuple):
            return [replace(part) for part in item]
        return item

    return [[replace(seen) for seen in step] for step in trace]


def _zxids(item: Any) -> Iterable[Zxid]:
    if isinstance(item, Zxid):
        yield item
    elif isinstance(item, list | tuple):
        for part in item:
            yield from _zxids(part)


def compare(program: Sequence[Step], expected: Trace, found: Trace) -> str | None:
    """Return, in words, where two ranked traces first differ, or None if they are equal."""
    for number, (step, real, model) in enumerate(zip(program, expected, found, strict=True)):
        if step.actions[0].name == "reopen":
            # The server deletes the ephemerals of an ended session in the order of a hash set.
            real, model = ([sorted(seen, key=str) for seen in side] for side in (real, model))
        for session, (one, other) in enumerate(zip(real, model, strict=True)):
            if one != other:
                before = "\n".join(f"  {earlier}" for earlier in program[:number])
                return (
                    f"step {number}, {step}: session {session} sees\n  real:  {one}\n  model: {other}\nafter\n{before}"
                )
    return None


# ---- counting

KINDS = (
    *("create: ok", "create ephemeral: ok", "create sequential: ok", "delete: ok", "set: ok", "check: ok"),
    *("create: NO_NODE", "create: NODE_EXISTS", "create: NO_CHILDREN_FOR_EPHEMERALS"),
    *("delete: NO_NODE", "delete: NOT_EMPTY", "delete: BAD_VERSION", "set: NO_NODE", "set: BAD_VERSION"),
    *("check: NO_NODE", "check: BAD_VERSION", "undone: ok"),
    *("read: ok", "children: ok", "children: NO_NODE", "exists: ok", "stat: ok", "stat: NO_NODE", "add_watch: ok"),
    *("heartbeat: ok", "heartbeat: NO_NODE", "drop", "reopen"),
    *("event CREATED", "event DELETED", "event CHANGED", "event before its reply", "several replies"),
)
"""The kinds of events that must happen at least once. Otherwise too little was compared."""


def count(program: Sequence[Step], trace: Trace) -> Counter[str]:
    """Return how often each kind of event happened in a trace."""
    counts = Counter[str]()
    for step, seen in zip(program, trace, strict=True):
        own = seen[step.session]
        answers = {entry[0]: entry for entry in own if isinstance(entry, list) and isinstance(entry[0], int)}
        counts["several replies"] += len(answers) > 1
        for index, action in enumerate(step.actions):
            counts.update(_count_action(action, answers.get(index)))
        events = [entry[0] for entry in itertools.chain(*seen) if isinstance(entry, list) and isinstance(entry[0], str)]
        counts.update(f"event {event}" for event in events)
        counts["event before its reply"] += bool(
            own and answers and isinstance(own[0], list) and isinstance(own[0][0], str)
        )
    return +counts


def _count_action(action: Action, answer: list[Any] | None) -> Iterable[str]:
    if answer is None:
        return [action.name]
    refused = answer[1] if isinstance(answer[1], str) else None
    if action.name != "transact":
        return [f"{action.name}: {refused or 'ok'}"]
    names = [_name(op) for op in action.arguments[0]]
    if refused is None:
        return [f"{name}: ok" for name in names]
    culprit = names[answer[2]].split()[0]
    return [f"{culprit}: {refused}", *(["undone: ok"] if answer[2] else [])]


def _name(op: WriteOp) -> str:
    match op:
        case Create(sequential=True):
            return "create sequential"
        case Create(ephemeral=True):
            return "create ephemeral"
        case Create():
            return "create"
        case Delete():
            return "delete"
        case Check():
            return "check"
    return "set"
