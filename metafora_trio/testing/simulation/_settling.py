"""Settling: the end of a history. Every fault ends, and the cluster must come to rest in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ._broker import SimulatedBroker
from ._client import Expectations
from ._monitor import Monitor
from ._node import SimulatedNode
from ._settled import SettledCheck
from ._world import World

__all__ = ["settle"]

_CALM = 3.0
"""Seconds without any change after which the cluster counts as settled."""
_ASKED_AGAIN = 10.0
"""The maximum number of seconds after which a balancer that has refused a task is asked again."""
_LONGEST_PROBATION = 60.0
_LONGEST_SUSPENSION = 360.0
"""The longest pause until a suspended node tries a task, and the time that this task must last, in seconds."""
_DRAIN_TIMEOUT = 30.0
"""The default of `Consumer`: seconds for which a draining node keeps the tasks that no other node takes."""


class Cluster(Protocol):
    """The part of a `SimulatedCluster` that this needs."""

    world: World
    session_timeout: float
    nodes: dict[str, SimulatedNode]
    monitor: Monitor
    expectations: Expectations
    broker: SimulatedBroker
    changes: int

    def run_until(self, predicate: Callable[[], object], within: float) -> bool: ...

    def start(self) -> SimulatedNode: ...


def settle(cluster: Cluster, check: SettledCheck) -> None:
    """See `SimulatedCluster.settle`."""
    longest = 0.0

    def held_back() -> float:
        nonlocal longest  # a node whose probation or suspension is over still needs the time after it
        longest = max(longest, _held_back(cluster))
        return longest

    cluster.broker.recover()
    answered_by = cluster.world.now + 2 * cluster.session_timeout + 10
    _must(
        cluster,
        lambda: check.is_answered(cluster.changes),
        lambda: answered_by,
        lambda: f"not answered in time: {check.unanswered()}",
    )
    bound = 2 * cluster.session_timeout + cluster.broker.expiry_delay + 5 + cluster.expectations.left_alone
    for node in cluster.nodes.values():
        node.place.call(node.consumer.unfreeze)
        if node.balancer is not None:
            node.balancer.relent()
    if any(node.balancer is not None for node in cluster.nodes.values() if node.running):
        bound += _ASKED_AGAIN
    if any(node.leaving for node in cluster.nodes.values()) and _is_limited(cluster):
        bound += _DRAIN_TIMEOUT
    if all(node.leaving for node in cluster.nodes.values() if node.running):
        # No node is left to hand over to, so they must let go. Then a new node takes the tasks.
        left_by = cluster.world.now + bound
        _must(
            cluster,
            lambda: not check.running(),
            lambda: left_by + held_back(),
            lambda: f"drained, but not left in time: {check.running()}",
        )
        cluster.start()
    end = cluster.world.now + bound
    while True:
        _must(
            cluster,
            lambda: check.is_settled(cluster.changes),
            lambda: end + held_back(),
            lambda: f"not settled in time: {check.problems() or 'still changing'}",
        )
        settled = _moves(cluster)
        if not cluster.run_until(lambda: settled != _moves(cluster), within=_CALM):  # noqa: B023 - called in here
            return


def _held_back(cluster: Cluster) -> float:
    """Return the maximum number of seconds for which a node gets no tasks because it has kept losing its sessions, or
    only one because tasks have kept failing there.

    Joins that failed count as lost, too, as others saw a session end. Each may count twice.
    """
    learned = [node.consumer._experience for node in cluster.nodes.values() if node.running]
    losses = max((experience.probation.most_losses for experience in learned), default=0)
    probation = min(2.0 ** (2 * losses), _LONGEST_PROBATION) if losses else 0.0
    suspended = any(experience.failures.suspended for experience in learned)
    return max(probation, _LONGEST_SUSPENSION if suspended else 0.0)


def _is_limited(cluster: Cluster) -> bool:
    """Return whether any node has a capacity. A draining node waits for others that are full."""
    return any(node.capacity is not None for node in cluster.broker.contents().view.nodes.values())


def _moves(cluster: Cluster) -> tuple[int, int]:
    """Return two counters, at least one of which grows with every change."""
    return cluster.monitor.changes, cluster.changes


def _must(
    cluster: Cluster, predicate: Callable[[], object], end: Callable[[], float], problem: Callable[[], str]
) -> None:
    """Let time pass until `predicate` is true. If it is not by `end`, which may move meanwhile, a promise is broken."""
    while not cluster.run_until(predicate, max(0.0, end() - cluster.world.now)):
        if cluster.world.now >= end():
            cluster.monitor.violation(problem())
            cluster.monitor.check()
