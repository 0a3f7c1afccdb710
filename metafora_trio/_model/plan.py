"""The plan: a pure function that says which node should own which task, the same on every node.

The plan is sticky. A task moves only if it must for the cluster to come within one task of even, so the number of
moves is the smallest possible. No node assigns tasks to others: every node computes the same plan from the same view
and acts only on its own lines. If two views differ for a moment, that costs a failed attempt, never correctness,
because claims decide which node owns a task.

In a simulation with Go Metafora's, KCL's and Ordasity's balancers, only this plan reached a spread of one with the
fewest possible moves. Affinity is rendezvous hashing (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from .claim import ClaimKind
from .node_info import NodeInfo
from .view import ClusterView

__all__ = ["RemovalOrder", "affinity_order", "may_receive", "plan"]

_MASK = (1 << 64) - 1


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _affinity(task_hash: int, node_hash: int) -> int:
    """Return how well a task fits a node: both hashes mixed by splitmix64's finaliser, cheap for many pairs."""
    x = (task_hash ^ node_hash) * 0xBF58476D1CE4E5B9 & _MASK
    x ^= x >> 31
    x = x * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 29)


def may_receive(node: NodeInfo) -> bool:
    """Return whether the plan may give tasks to a node."""
    return not (node.draining or node.frozen)


def affinity_order(task: str, nodes: Iterable[str]) -> list[str]:
    """Sort node identities by how well they fit the task, best first: the order in which nodes try to claim it."""
    task_hash = _hash(task)
    return sorted(nodes, key=lambda node: (-_affinity(task_hash, _hash(node)), node))


class RemovalOrder:
    """The order in which nodes try to remove a deleted task that no node owns.

    To remove a task takes no room and runs nothing, so every live node may do it unless it drains: first those that may
    receive tasks, however full they are, then frozen ones. Within each group the nodes that fit the task best come
    first, so that many removals are shared.
    """

    def __init__(self, nodes: Iterable[NodeInfo]) -> None:
        groups: list[list[tuple[int, str]]] = [[], []]
        for node in nodes:
            if not node.draining:
                groups[int(node.frozen)].append((_hash(node.identity), node.identity))
        self._groups = groups

    def node_at(self, task: str, turn: int) -> str | None:
        """Return the identity of the node whose turn it is, or None if there is no node.

        Args:
            task: the deleted task.
            turn: 0 for the first choice. Past the last node, the order starts again.
        """
        nodes = sum(map(len, self._groups))
        turn = turn % nodes if nodes else 0
        task_hash = _hash(task)
        for group in self._groups:
            if turn < len(group):
                return heapq.nsmallest(turn + 1, group, key=lambda item: (-_affinity(task_hash, item[0]), item[1]))[
                    turn
                ][1]
            turn -= len(group)
        return None


def plan(
    view: ClusterView,
    me: str,
    *,
    pending_claims: Collection[str] = (),
    pending_bids: Collection[str] = (),
    refused: Collection[str] = (),
    held_back: Collection[str] = (),
    even: bool = True,
) -> dict[str, str]:
    """Plan which tasks should change hands, and which node should get each.

    Args:
        view: the view. Tasks of nodes that have left count as having no owner.
        me: the identity of the planning node. The next three arguments are facts that it knows before its view does.
        pending_claims: unclaimed tasks for which it has already requested a claim.
        pending_bids: tasks of other nodes for which it has requested a bid that is not in the view yet.
        refused: tasks that it must leave alone for a while. If their owner is over its share, other tasks of that
            owner move instead.
        held_back: the nodes on probation, which get no more than they have.
        even: True if nodes over their share give tasks up. If False, the plan gives out only tasks that are unclaimed
            or whose owner drains or has left, each to the node that fits best.

    Returns:
        The heir's identity by task, for tasks that are unclaimed, whose owner drains or has left, or (with `even`)
        that exceed their owner's share. Tasks are left out if no node can take any more, and if they are known to have
        a tombstone: they run nowhere, so they are no load; `RemovalOrder` says which node removes them.
    """
    loads = {identity: 0 for identity, node in view.nodes.items() if may_receive(node)}
    if not loads:
        return {}
    pool: list[str] = []
    _count(view, me, loads, pool, pending_claims, pending_bids)
    caps = {
        identity: _cap(view.nodes[identity], loads[identity], held_back=identity in held_back) for identity in loads
    }
    if even:
        quotas = _quotas(loads, caps, len(pool))
        hashes = {identity: _hash(identity) for identity in loads}
        for identity, quota in quotas.items():
            if loads[identity] > quota:
                movable = (
                    task
                    for task in view.owned_by(identity)
                    if task not in view.contested
                    and task not in view.tombstones
                    and task not in pending_bids
                    and task not in refused
                )
                pool += _least_affine(movable, hashes[identity], int(loads[identity] - quota))
    else:
        quotas = caps
    return _give_out(sorted(pool), {n: quotas[n] - loads[n] for n in loads if quotas[n] > loads[n]}) if pool else {}


def _count(
    view: ClusterView,
    me: str,
    loads: dict[str, int],
    pool: list[str],
    pending_claims: Collection[str],
    pending_bids: Collection[str],
) -> None:
    """Count in `loads` the tasks that each node has or is about to get, and add the tasks that need an owner to `pool`.

    The cost is one step per node, and one per task that is unclaimed, contested, pending, deleted, or owned by a node
    that drains or has left.
    """
    for identity in loads:
        loads[identity] = len(view.owned_by(identity))
    for task in view.tombstones:
        if (owner := view.owner(task)) in loads:
            loads[owner] -= 1
    for task in view.contested:  # a task with an heir counts as the heir's
        if task in view.tombstones:
            continue
        heir = next((c.node for c in view.queue(task)[1:] if c.kind is ClaimKind.BID and c.node in loads), None)
        if heir is not None:
            owner = view.owner(task)
            if owner in loads:
                loads[owner] -= 1
            loads[heir] += 1
    for task in pending_bids:
        if (owner := view.owner(task)) in loads and task not in view.contested:
            loads[owner] -= 1
    if me in loads:
        loads[me] += len(pending_claims) + len(pending_bids)
    pool += [task for task in view.unclaimed if task not in pending_claims and task not in view.tombstones]
    for identity in view.owners():
        node = view.nodes.get(identity)
        if node is not None and not node.draining:
            continue
        pool += [
            task
            for task in view.owned_by(identity)
            if task not in pending_bids
            and task in view.tasks
            and task not in view.tombstones
            and not any(c.kind is ClaimKind.BID and c.node in loads for c in view.queue(task)[1:])
        ]


def _cap(node: NodeInfo, load: int, *, held_back: bool) -> float:
    """Return the most tasks a node can have: its capacity or, if it is full or held back, at most its present load."""
    capacity = math.inf if node.capacity is None else node.capacity
    return min(capacity, load) if node.full or held_back else capacity


def _quotas(loads: Mapping[str, int], caps: Mapping[str, float], unowned: int) -> dict[str, float]:
    """Return how many tasks each node should have: evenly many, none above its cap, any extra ones to the fullest."""
    tasks: float = sum(loads.values()) + unowned
    open_nodes = sorted(loads, key=lambda node: (-loads[node], node))
    quotas: dict[str, float] = {}
    while open_nodes:
        base = tasks // len(open_nodes)
        capped = [node for node in open_nodes if caps[node] <= base]
        if not capped:
            break
        for node in capped:
            quotas[node] = caps[node]
            tasks -= caps[node]
        open_nodes = [node for node in open_nodes if node not in quotas]
    else:
        return quotas
    extra = tasks - base * len(open_nodes)
    for node in open_nodes:
        more = 1 if extra > 0 else 0
        quotas[node] = base + more
        extra -= more
    return quotas


def _least_affine(tasks: Iterable[str], node_hash: int, count: int) -> Sequence[str]:
    return heapq.nsmallest(count, tasks, key=lambda task: (_affinity(_hash(task), node_hash), task))


def _give_out(pool: Sequence[str], free: dict[str, float]) -> dict[str, str]:
    hashes = sorted((_hash(node), node) for node in free)
    heirs: dict[str, str] = {}
    for task in pool:
        if not hashes:
            break
        task_hash = _hash(task)
        best = max(hashes, key=lambda item: _affinity(task_hash, item[0]))
        heirs[task] = node = best[1]
        free[node] -= 1
        if free[node] <= 0:
            hashes.remove(best)
    return heirs
