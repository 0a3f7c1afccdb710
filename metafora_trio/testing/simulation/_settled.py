"""SettledCheck: decides whether a simulated cluster has settled, and names what is still wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from metafora_trio import StateName
from metafora_trio.contract import ClaimKind, node_name

from ._broker import BrokerContents, SimulatedBroker
from ._client import Expectations, SimulatedClient
from ._monitor import Monitor
from ._node import SimulatedNode

__all__ = ["SettledCheck"]

_LOOKS_PER_SECOND = 4


class SettledCheck:
    """Checks a cluster that is no longer disturbed.

    Args:
        nodes: every node ever started, by name.
        client: made the requests.
        expectations: the outcome that the requests require.
        broker: holds the contents.
        monitor: knows the open runs.
        now: returns the time.
    """

    def __init__(
        self,
        nodes: Mapping[str, SimulatedNode],
        client: SimulatedClient,
        expectations: Expectations,
        broker: SimulatedBroker,
        monitor: Monitor,
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self._nodes = nodes
        self._client = client
        self._expectations = expectations
        self._broker = broker
        self._monitor = monitor
        self._answered = _CachedAnswer(lambda: not self.unanswered())
        self._settled = _CachedAnswer(lambda: not self.problems())

    def running(self) -> list[str]:
        """Return the names of the running nodes."""
        return [node.name for node in self._nodes.values() if node.running]

    def unanswered(self) -> list[str]:
        """Return the requests and commands that may still take effect."""
        contents = self._broker.contents()
        requests = [f"{self._client.outstanding} requests"] if self._client.outstanding else []
        commanded = [node.name for node in self._nodes.values() if self._may_get_command(node, contents)]
        return [*requests, *(f"commands to {name}" for name in commanded)]

    def _may_get_command(self, node: SimulatedNode, contents: BrokerContents) -> bool:
        """Return whether a node may still carry out a command: one that is queued at the broker, or one that it may
        have received in a session that is over, as long as the node does not know that."""
        sessions = [identity for identity in contents.view.nodes if node_name(identity) == node.name]
        if not node.running:
            return False
        return node.identity not in (None, *sessions) or any(it in sessions for it in contents.commanded)

    def is_answered(self, changes: int) -> bool:
        """Return whether every request has been answered and carried out.

        Args:
            changes: how often the broker's contents have changed.
        """
        return self._answered(self._seen(changes))

    def is_settled(self, changes: int) -> bool:
        """Return whether the cluster has settled. For `changes` see `is_answered`."""
        return self._settled(self._seen(changes))

    def _seen(self, changes: int) -> object:
        """Return counters of most changes that an answer can depend on, and of the time for the others, such as the
        reply to a request: an answer is computed again a few times a second."""
        return self._monitor.changes, changes, self._client.outstanding, int(self._now() * _LOOKS_PER_SECOND)

    def problems(self) -> list[str]:
        """Return everything that is wrong for a settled cluster."""
        contents = self._broker.contents()
        live = [node for node in self._nodes.values() if node.running]
        loads = {node.name: 0 for node in live if not node.leaving}
        found = [problem for task in sorted(contents.view.tasks) for problem in self._of_task(task, contents, loads)]
        room = [load for name, load in loads.items() if _has_room(self._nodes[name], load, contents)]
        waiting = set() if room or not loads else set(contents.view.unclaimed)  # no node may take them
        found = [*(f"{task} has the claims []" for task in sorted({*contents.view.unclaimed} - waiting)), *found]
        if room and max(loads.values()) - min(room) > 1:
            found.append(f"the load is uneven: {loads}")
        members = sorted(node.identity or f"{node.name} (no session)" for node in live)
        return [
            *found,
            *_left_over(contents),
            *_of_sessions(contents, members, self._stuck_sessions()),
            *self._of_clients(contents, waiting),
            *(problem for node in live for problem in self._of_statistics(node, contents)),
            *(f"{node.name} has not left" for node in live if node.leaving),
        ]

    def _stuck_sessions(self) -> set[str]:
        """Return the sessions that a run which ignores its cancellation keeps open, beside the node's next session."""
        return {run.node for run in self._monitor.open_runs() if run.overran and not run.place.dead}

    def _of_task(self, task: str, contents: BrokerContents, loads: dict[str, int]) -> Iterator[str]:
        runs = self._monitor.runs[task]
        claims = [(claim.seq, claim.node) for claim in contents.view.queue(task)]
        if contents.view.deleted(task):
            yield f"{task} was deleted, but is still there"
        elif not claims:
            return  # it is a problem unless all nodes are full
        elif len(claims) != 1:
            yield f"{task} has the claims {claims}"
        elif [(run.token, run.node) for run in runs] != claims:
            yield f"{task} is owned by {claims}, but its runs are {[str(run) for run in runs]}"
        elif claims[0][1] in self._stuck_sessions():
            return  # it counts for no node: only when its scope has closed can the task move
        elif (name := runs[0].place.name) in loads:
            loads[name] += 1
        else:
            yield f"{task} runs on {name}, which is leaving or gone"

    def _of_clients(self, contents: BrokerContents, waiting: Collection[str]) -> Iterator[str]:
        known = {*contents.view.tasks, *contents.states}
        for task, there in self._expectations.there.items():
            if there and task not in known:
                yield f"{task} was submitted, but is gone"
            elif not there and task in known:
                yield f"{task} was deleted, but is still there"
        for submission in self._expectations.submissions.forgotten():
            if submission.task not in waiting:
                yield f"{submission} was submitted, but never ran"

    def _of_statistics(self, node: SimulatedNode, contents: BrokerContents) -> Iterator[str]:
        statistics = node.consumer.statistics()
        owned = sum(contents.view.owner(task) == statistics.node for task in contents.view.tasks)
        if (statistics.tasks_running, statistics.tasks_open) != (owned, owned):
            yield f"{node.name} owns {owned} tasks, but reports {statistics}"
        if statistics.requests_outstanding:
            yield f"{node.name} still has {statistics.requests_outstanding} outstanding requests"


class _CachedAnswer:
    """Answers a slow question, and caches the answer until something changes."""

    def __init__(self, question: Callable[[], bool]) -> None:
        self._question = question
        self._seen: object = None
        self._answer = False

    def __call__(self, seen: object) -> bool:
        if seen != self._seen:
            self._seen, self._answer = seen, self._question()
        return self._answer


def _has_room(node: SimulatedNode, load: int, contents: BrokerContents) -> bool:
    info = contents.view.nodes.get(node.identity or "")
    return info is None or info.capacity is None or load < info.capacity


def _left_over(contents: BrokerContents) -> Iterator[str]:
    view, states = contents.view, contents.states
    for task, state in states.items():
        if task not in view.tasks and state is StateName.RUNNABLE:
            yield f"{task} has a state, but does not exist"
    for task in view.tasks:
        if states.get(task) is not StateName.RUNNABLE:
            yield f"{task} exists, but its state is {states.get(task)}"
    for claim in view.claims():
        if claim.task not in view.tasks or (claim.kind is ClaimKind.BID and len(view.queue(claim.task)) > 1):
            yield f"the {claim.kind.name.lower()} of {claim.node} for {claim.task} is left over"
    yield from (f"a command to {identity} is left over" for identity in contents.commanded)
    yield from contents.leftovers


def _of_sessions(contents: BrokerContents, members: list[str], stuck: set[str]) -> Iterator[str]:
    nodes = contents.view.nodes
    if (present := sorted(nodes)) != (expected := sorted({*members, *stuck})):
        yield f"the members are {present}, but the running nodes are {expected}"
    # A session that waits only for a stuck scope says that it is frozen, so that nobody asks for its task.
    yield from (
        f"{identity} is still frozen" for identity in present if nodes[identity].frozen and identity not in stuck
    )
