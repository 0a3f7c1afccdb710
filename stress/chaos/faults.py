"""The faults of a chaos run: a schedule, drawn from a seed before anything starts.

The schedule is plain data, so the same seed gives the same faults. It is a series of scenes: a mixed scene, in which
faults on different targets overlap; then a kill of one node with no other fault near it, whose gap must meet the
promise; and now and then a rolling restart of the nodes. Kinds are dealt from shuffled decks: in a long run each kind
has its turn before any comes again, except that a kind is skipped if it does not fit into the rest of its scene. A long
freeze and a long cut come first, because they reveal the bugs of `--break`, and a short run must reveal them too.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["KINDS", "Assumption", "Fault", "FaultKind", "Kind", "calm", "drain_limit", "schedule"]

T = TypeVar("T")


class FaultKind(enum.StrEnum):
    """The kinds of faults, and of user commands."""

    KILL = "kill"
    FREEZE = "freeze"
    HICCUP = "hiccup"
    CUT = "cut"
    CUT_ONE = "cut one"
    MUTE = "mute"
    DEAF = "deaf"
    LATENCY = "latency"
    LOSS = "packet loss"
    RESET = "reset"
    LOST_REPLIES = "lost replies"
    CLOCK = "clock jump"
    DRAIN = "drain"
    JOIN = "join"
    HOLD = "hold"
    ROLL_NODES = "roll nodes"
    KILL_SERVER = "kill server"
    PAUSE_SERVER = "pause server"
    ISOLATE_SERVER = "isolate server"
    SLOW_DISK = "slow disk"
    ROLL_SERVERS = "roll servers"
    LOSE_QUORUM = "lose quorum"
    CUT_PAIR = "cut pair"
    KILL_SERVERS = "kill servers"
    SUBMIT = "submit"
    DELETE = "delete"
    STOP = "stop tasks"
    BALANCE = "balance"
    UNREADABLE = "unreadable"
    REFUSED = "refused ends"
    GARBAGE = "garbage"
    RAISING = "raising"
    DEEP = "deep"
    STUBBORN = "stubborn"
    LARGE = "large"
    BRIEF = "brief blocks"
    BLOCKING = "long blocks"
    BLOCKED = "blocked loop"
    NAMESAKE = "namesake"
    CRASH_LOOP = "crash loop"
    STALL = "stall"


class Assumption(enum.StrEnum):
    """The assumptions of the library's promises, as in section 9 of its design. A fault breaks at most one of them."""

    NONE = ""
    REST_WELL = "all else is well"
    """Only the limit of the gap after a kill needs this assumption."""
    AWAKE = "processes run"
    """A frozen process counts as not running, and so does a process just after its thaw."""
    QUORUM = "a quorum serves"
    """Without a quorum, tasks stop and do not start elsewhere. Until it is back, the only promise is that no task runs
    twice at once."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        about: one line for people.
        span: the shortest and the longest time until it is healed, in seconds, for a given session timeout.
        target: the kind of target.
        breaks: the assumption that does not hold during the fault and shortly after it.
    """

    about: str
    span: Callable[[float], tuple[float, float]] = lambda timeout: (0.0, 0.0)
    target: str = "node"
    breaks: Assumption = Assumption.REST_WELL

    @property
    def fault(self) -> bool:
        """True if it disturbs the cluster; False for user commands."""
        return self.breaks is not Assumption.NONE


_NONE, _AWAKE, _QUORUM = Assumption.NONE, Assumption.AWAKE, Assumption.QUORUM

KINDS = {
    FaultKind.KILL: Kind("SIGKILL of a node, started again later", lambda t: (1.0, t + 3)),
    FaultKind.FREEZE: Kind("SIGSTOP of a node, past its session timeout", lambda t: (t + 2, t + 4), breaks=_AWAKE),
    FaultKind.HICCUP: Kind("SIGSTOP of a node for a moment", lambda t: (0.1, t * 0.7), breaks=_AWAKE),
    FaultKind.CUT: Kind("node cut from all servers, silently, past its session timeout", lambda t: (t + 2, t + 4)),
    FaultKind.CUT_ONE: Kind("node cut from one server, silently", lambda t: (1.0, 2 * t)),
    FaultKind.MUTE: Kind("data from a node is held, data to it arrives", lambda t: (1.0, t + 2)),
    FaultKind.DEAF: Kind("data from a node arrives, data to it is held", lambda t: (1.0, 2 * t)),
    FaultKind.LATENCY: Kind("all data between a node and the servers arrives late", lambda t: (2.0, 2 * t)),
    FaultKind.LOSS: Kind("random packets between a node and the servers are lost", lambda t: (2.0, 2 * t)),
    FaultKind.RESET: Kind("the connections of a node are reset"),
    FaultKind.LOST_REPLIES: Kind("replies held, then lost with the connection: writes took effect", lambda t: (0.2, 1)),
    FaultKind.CLOCK: Kind("the wall clock of a node jumps, by up to a day, and back later", lambda t: (2.0, 2 * t)),
    FaultKind.DRAIN: Kind("a node is drained, ends, and is started again", lambda t: (3.0, t + 4)),
    FaultKind.JOIN: Kind("a new node joins, and is drained later", lambda t: (t, 3 * t), "new node"),
    FaultKind.HOLD: Kind("a node gets `freeze`: no claims, bids or handovers", lambda t: (1.0, t)),
    FaultKind.ROLL_NODES: Kind("each node in turn is drained and started again", target="all nodes"),
    FaultKind.KILL_SERVER: Kind("SIGKILL of a server, started again", lambda t: (1.0, t + 2), "server", _QUORUM),
    FaultKind.PAUSE_SERVER: Kind("SIGSTOP of a server", lambda t: (1.0, t + 4), "server", _QUORUM),
    FaultKind.ISOLATE_SERVER: Kind("server cut from the other servers", lambda t: (2.0, t + 4), "server", _QUORUM),
    FaultKind.SLOW_DISK: Kind("every fsync of a server takes longer", lambda t: (2.0, 2 * t), "server"),
    FaultKind.ROLL_SERVERS: Kind("each server is killed and started again", target="all servers", breaks=_QUORUM),
    FaultKind.LOSE_QUORUM: Kind("SIGSTOP or SIGKILL of a majority", lambda t: (1.0, t + 4), "all servers", _QUORUM),
    FaultKind.CUT_PAIR: Kind("two servers cut, both ways or one way", lambda t: (2.0, t + 4), "all servers", _QUORUM),
    FaultKind.KILL_SERVERS: Kind("SIGKILL of all servers at once", lambda t: (0.5, t), "all servers", _QUORUM),
    FaultKind.SUBMIT: Kind("a burst of new tasks, half of them short", target="tasks", breaks=_NONE),
    FaultKind.DELETE: Kind("a burst of deletes", target="tasks", breaks=_NONE),
    FaultKind.STOP: Kind("a burst of `stop_task`", target="tasks", breaks=_NONE),
    FaultKind.BALANCE: Kind("every node is told to balance", target="tasks", breaks=_NONE),
    FaultKind.UNREADABLE: Kind("tasks that no node may read", target="poison", breaks=_NONE),
    FaultKind.REFUSED: Kind("tasks whose end the servers refuse to write", target="poison", breaks=_NONE),
    FaultKind.GARBAGE: Kind("znodes that are not Metafora's, at every path", target="poison", breaks=_NONE),
    FaultKind.RAISING: Kind("handlers that exit, or raise anything", target="poison", breaks=_NONE),
    FaultKind.DEEP: Kind("properties as deep as a task may have", target="poison", breaks=_NONE),
    FaultKind.STUBBORN: Kind("handlers that ignore cancellation past the lease", target="poison", breaks=_NONE),
    FaultKind.LARGE: Kind("tasks with properties of nearly 512 KiB", target="poison", breaks=_NONE),
    FaultKind.BRIEF: Kind("handlers that block the event loop for less than the lease", target="poison", breaks=_NONE),
    FaultKind.BLOCKING: Kind("a task that blocks the event loop of its node", target="poison", breaks=_NONE),
    FaultKind.BLOCKED: Kind("the event loop is blocked past the lease", target="blocked node", breaks=_AWAKE),
    FaultKind.NAMESAKE: Kind("a node joins under the name of another", target="namesake", breaks=_NONE),
    FaultKind.CRASH_LOOP: Kind("a node is killed 2 s after each join", target="looping node"),
    FaultKind.STALL: Kind("this machine was too busy to run the proxies", target="all links", breaks=_AWAKE),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault.

    Attributes:
        at: when to inject it, in seconds since the start of the schedule.
        seconds: the seconds until it is healed.
        kind: the kind of fault.
        target: a node's name; or "leader" or "follower", which are looked up at that time; or empty.
        amount: a number in [0, 1) that sets a delay or chooses among servers or tasks.
        alone: True if no other fault happens near it.
    """

    at: float
    seconds: float
    kind: FaultKind
    target: str = ""
    amount: float = 0.0
    alone: bool = False

    @property
    def end(self) -> float:
        """When it is healed, in seconds since the start of the schedule."""
        return self.at + self.seconds


_SCENE = 24.0
_LASTING = (
    FaultKind.UNREADABLE,
    FaultKind.GARBAGE,
    FaultKind.RAISING,
    FaultKind.DEEP,
    FaultKind.STUBBORN,
    FaultKind.LARGE,
)
"""The poison that is there from the beginning to the end."""
_CALM_WITH_POISON = 6.0
"""The least seconds of the scene with poison and without faults."""
_NODE_FAULTS = 4
_ROLL_NODE, _ROLL_SERVER = 3.0, 4.0
_ROLES = ("leader", "follower")


def calm(session_timeout: float) -> float:
    """Return the seconds from a heal until the fault has no effect: sessions ended, nodes joined and settled."""
    return session_timeout + 3.0


def drain_limit(session_timeout: float) -> float:
    """Return the seconds after which a draining node is killed. Its consumer stops the drain 2 s earlier."""
    return session_timeout + 4.0


def schedule(
    *,
    seed: int,
    seconds: float,
    nodes: int,
    servers: int,
    session_timeout: float,
    loss: bool = False,
    poison: bool = False,
) -> list[Fault]:
    """Draw the faults of a run, sorted by time. All are healed within `seconds`.

    Args:
        seed: the same seed gives the same faults.
        seconds: the length of the schedule.
        nodes: the number of nodes.
        servers: the number of servers.
        session_timeout: T, in seconds.
        loss: True if packets can be dropped.
        poison: True to add poison. The run then begins with three more scenes: poison without any fault, blocked event
            loops, and a crash loop.
    """
    draw = _Draw(seed, seconds, nodes, servers, session_timeout, loss=loss)
    return sorted(draw.scenes(poison=poison), key=lambda fault: fault.at)


class _Draw:
    """Draws the scenes of one run."""

    def __init__(
        self, seed: int, seconds: float, nodes: int, servers: int, session_timeout: float, *, loss: bool
    ) -> None:
        self._rng = random.Random(seed)
        self._seconds = seconds
        self._nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._new = nodes
        self._servers = servers
        self._timeout = session_timeout
        on_nodes = [kind for kind, about in KINDS.items() if about.target in ("node", "new node")]
        self._node_deck = self._deck([kind for kind in on_nodes if loss or kind is not FaultKind.LOSS])
        on_servers = [(kind, role) for kind, about in KINDS.items() if about.target == "server" for role in _ROLES]
        on_all = [(kind, "") for kind, about in KINDS.items() if about.target == "all servers"]
        if servers == 1:
            on_servers = [(k, role) for k, role in on_servers if k is not FaultKind.ISOLATE_SERVER and role == "leader"]
            on_all = [(kind, role) for kind, role in on_all if kind not in (FaultKind.LOSE_QUORUM, FaultKind.CUT_PAIR)]
        self._server_card: tuple[FaultKind, str] | None = None
        self._server_deck = self._deck([*on_servers, *on_all])
        self._task_deck = self._deck([kind for kind, about in KINDS.items() if about.target == "tasks"])

    def _deck(self, cards: Sequence[T]) -> Iterator[T]:
        """Yield all cards in random order, then all again in a new order, forever."""
        while True:
            yield from self._rng.sample(cards, len(cards))

    def scenes(self, *, poison: bool) -> Iterator[Fault]:
        now, mixed = 1.0, 0
        if poison:
            poisoned = list(self._poisoned(now))
            yield from poisoned
            now = self._next(fault for fault in poisoned if fault.kind not in _LASTING)
        opening = list(self._opening(now))
        yield from opening
        now = max((fault.end for fault in opening), default=now)
        while now < self._seconds - 2:
            scene = list(self._mixed(now, min(now + _SCENE, self._seconds)))
            yield from scene
            mixed += 1
            # One second more than the checker requires, because injecting and healing take time.
            now = self._next(scene) if scene else now + calm(self._timeout) + 1.0
            roll = _ROLL_NODE * len(self._nodes)
            if mixed % 2 == 0 and now + roll < self._seconds:
                yield Fault(now, roll, FaultKind.ROLL_NODES)
                now += roll + calm(self._timeout) + 1.0
            away = self._timeout + 3.0  # it starts again well after its tasks must run elsewhere
            if now + away < self._seconds:
                yield Fault(now, away, FaultKind.KILL, self._rng.choice(self._nodes), self._rng.random(), alone=True)
                now += away + 2.0

    def _next(self, scene: Iterable[Fault]) -> float:
        """Return when the next scene begins, so that no fault of a scene is near."""
        return max(fault.end for fault in scene) + calm(self._timeout) + 1.0

    def _poisoned(self, begin: float) -> Iterator[Fault]:
        """The scenes of a run with poison that come before the usual ones.

        The first has no faults, so nothing excuses a task that restarts in it. Blocked event loops have a scene of
        their own, since they cost the other tasks of their nodes something, and a blocked node whose links are cut
        cannot stop its tasks in time. In the third scene a node crashes again and again, and another is killed.
        """
        end = begin + max(_CALM_WITH_POISON, self._seconds / 6)
        for kind in _LASTING:
            yield Fault(begin, self._seconds - begin, kind)
        yield Fault(begin, end - begin, FaultKind.REFUSED)
        yield Fault(begin, end - begin, FaultKind.BRIEF)
        self._new += 1
        yield Fault(begin + 1, (end - begin) / 2, FaultKind.NAMESAKE, f"n{self._new}", self._rng.random())
        for kind, about in KINDS.items():
            if about.target == "tasks":
                yield from self._place(begin + 2, end, kind, "")
        now = end
        if now + self._seconds / 10 + self._timeout < self._seconds:
            yield Fault(now, self._seconds / 10, FaultKind.BLOCKING)
            # A block that begins at the end lasts beyond it.
            now += self._seconds / 10 + 2 * self._timeout + calm(self._timeout)
        length, away = self._seconds / 6, self._timeout + 3.0
        if now + length < self._seconds and length > away + 2:
            self._new += 1
            yield Fault(now, length, FaultKind.CRASH_LOOP, f"n{self._new}")
            yield Fault(now + length - away - 2, away, FaultKind.KILL, self._rng.choice(self._nodes))

    def _opening(self, begin: float) -> Iterator[Fault]:
        """A long freeze and a long cut while no server is disturbed, because elections extend all sessions."""
        end = min(begin + 2 * self._timeout + 2, self._seconds)
        for kind, target in zip((FaultKind.FREEZE, FaultKind.CUT), self._rng.sample(self._nodes, 2), strict=True):
            yield from self._place(begin, end, kind, target)

    def _mixed(self, begin: float, end: float) -> Iterator[Fault]:
        targets = self._rng.sample(self._nodes, max(1, min(_NODE_FAULTS, len(self._nodes) - 1)))
        for target in targets:
            kind = next(self._node_deck)
            if kind is FaultKind.JOIN:
                self._new += 1
                target = f"n{self._new}"
            yield from self._place(begin, end, kind, target)
        now = begin + self._rng.uniform(1, 5)
        while now < end - 2:
            server_kind, role = self._server_card = self._server_card or next(self._server_deck)
            rolling = server_kind is FaultKind.ROLL_SERVERS
            seconds = _ROLL_SERVER * self._servers if rolling else self._length(server_kind)
            if now + seconds > end:
                break  # keep the card: it comes first in the next scene
            self._server_card = None
            yield Fault(now, seconds, server_kind, role, self._rng.random())
            now += seconds + self._rng.uniform(2, 6)
        for _ in range(3):
            yield from self._place(begin, end - 4, next(self._task_deck), "")

    def _place(self, begin: float, end: float, kind: FaultKind, target: str) -> Iterator[Fault]:
        """Yield one fault at a random time in the span, if it fits."""
        seconds = self._length(kind)
        if begin + seconds <= end:
            yield Fault(self._rng.uniform(begin, end - seconds), seconds, kind, target, self._rng.random())

    def _length(self, kind: FaultKind) -> float:
        return self._rng.uniform(*KINDS[kind].span(self._timeout))
