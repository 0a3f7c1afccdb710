"""LethalTasks: finds the tasks that end or block every node that runs them, from what a node sees of the others.

Such a task moves on when its node has gone, and would end one node after another. Each node counts for itself how many
nodes have gone soon after they got a task. After the third it leaves the task alone for 5 seconds, and after each
further one for four times as long, up to an hour.

A task that only happens to be on a node that fails must not be suspected. Therefore a node counts only if it was there
before the first of these nodes got the task, and if no session of its name has gone within a minute without having got
the task: nodes that crash and restart again and again add nothing. One node that keeps the task for a minute clears it.

A view shows no history, and what happens to a task and to its owner's node is seen in any order. A node may be seen to
go before it is seen to own the task. A task may have its next owner, which had a bid, before the node of the last one
is seen to go. Therefore nodes that have gone, and owners that have just lost a task, are remembered. Only a node that
gets a task and loses it between two looks is missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from .node_info import NodeInfo, node_name

__all__ = ["LethalTasks"]

_SOON = 60.0
"""A node has gone soon after it got a task if it was within so many seconds."""
_MOMENT = 1.0
"""Seconds within which a node is seen to go after its claims, if the broker has removed both at once."""
_MOST_DEATHS = 3
_PERIOD_FIRST, _PERIOD_FACTOR, _PERIOD_MOST = 5.0, 4.0, 3600.0
"""The first time is short. When nodes fail for another reason, one after another, a few innocent tasks are caught, and
must run again within the time in which a cluster recovers from any failure."""


@dataclass(slots=True)
class _Suspect:
    began: float  # when the first node that has gone since got the task
    victims: dict[str, bool] = field(default_factory=dict)  # the nodes that have gone; whether it was there before
    deaths: int = 0
    until: float = 0.0
    period: float = 0.0


class LethalTasks:
    """Follows which node got which task when, for a minute each. All times are in seconds, by the caller's clock."""

    def __init__(self) -> None:
        self._got: dict[str, tuple[str, float]] = {}  # the last owner, and since when; the oldest first
        self._lost: dict[str, tuple[str, float, float]] = {}  # the owner before the last, since when, and until when
        self._nodes: dict[str, tuple[float, bool]] = {}  # since when they have been seen; whether they drain
        self._gone: dict[str, tuple[float, float]] = {}  # since when they had been seen, and until when
        self._suspects: dict[str, _Suspect] = {}

    def forget_owners(self) -> None:
        """Begin again with a new view. What was found about tasks is kept."""
        self._got.clear()
        self._lost.clear()
        self._nodes.clear()
        self._gone.clear()

    def left_alone(self, task: str, now: float) -> bool:
        """Return whether to leave a task alone now."""
        suspect = self._suspects.get(task)
        return suspect is not None and suspect.until > now

    def found(self) -> Iterator[tuple[str, int]]:
        """Yield the tasks that were left alone and have not been cleared since, each with the number of nodes."""
        return ((task, suspect.deaths) for task, suspect in self._suspects.items() if suspect.period)

    def followed(self) -> Collection[str]:
        """Return the tasks that have changed hands shortly before, and those that are under suspicion."""
        return {**self._got, **self._suspects}

    def look_at_task(self, task: str, owner: str | None, now: float) -> None:
        """Note which node owns a task that may have changed hands."""
        known = self._got.get(task)
        # If the task has no owner now, the last one may have gone, which the nodes will show next.
        if owner is None or (known is not None and known[0] == owner):
            return
        if known is not None:
            del self._got[task]
            self._lost[task] = *known, now
        if owner in self._gone:
            self._note_death(task, owner, now, now)
        else:
            self._got[task] = owner, now

    def look_at_nodes(self, nodes: Mapping[str, NodeInfo], tasks: Mapping[str, object], now: float) -> None:
        """Compare the nodes with the last look.

        Args:
            nodes: the live nodes.
            tasks: the existing tasks.
            now: the time.
        """
        self._clear_lasting(now)
        gone = {identity for identity, (_, draining) in self._nodes.items() if identity not in nodes and not draining}
        self._gone = {identity: times for identity, times in self._gone.items() if now - times[1] <= _SOON}
        self._lost = {task: loss for task, loss in self._lost.items() if now - loss[2] <= _MOMENT}
        if gone:
            self._gone |= {identity: (self._nodes[identity][0], now) for identity in gone}
            for task, (owner, since, _) in self._lost.items():
                if owner in gone:
                    self._note_death(task, owner, since, now)
            for task, (owner, since) in list(self._got.items()):
                if owner in gone:
                    del self._got[task]
                    self._note_death(task, owner, since, now)
        if self._suspects:
            self._suspects = {task: suspect for task, suspect in self._suspects.items() if task in tasks}
        self._nodes = {
            identity: (self._nodes[identity][0] if identity in self._nodes else now, node.draining)
            for identity, node in nodes.items()
        }

    def _clear_lasting(self, now: float) -> None:
        lasting = []
        for task, (owner, since) in self._got.items():
            if now - since <= _SOON:
                break
            lasting.append((task, owner))
        for task, owner in lasting:
            del self._got[task]
            if owner in self._nodes:  # otherwise only its claim has lasted
                self._suspects.pop(task, None)

    def _note_death(self, task: str, owner: str, since: float, now: float) -> None:
        suspect = self._suspects.setdefault(task, _Suspect(since))
        if owner in suspect.victims:  # counted already; its claim is still there
            return
        suspect.victims[owner] = self._gone[owner][0] <= suspect.began
        failing = {node_name(identity) for identity in self._gone.keys() - suspect.victims.keys()}
        deaths = sum(there and node_name(identity) not in failing for identity, there in suspect.victims.items())
        suspect.deaths = max(suspect.deaths, deaths)
        if suspect.deaths >= _MOST_DEATHS:  # a node that came later counts, too, if the task is known to be lethal
            suspect.period = min(_PERIOD_FACTOR * suspect.period, _PERIOD_MOST) or _PERIOD_FIRST
            suspect.until = now + suspect.period
