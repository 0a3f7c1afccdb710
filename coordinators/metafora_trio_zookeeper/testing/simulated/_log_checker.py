"""LogChecker: reads the log of a simulated ensemble and checks each transaction at the moment of its commit.

So it finds a claim that goes while its task still runs, even if no other node was quick enough to take the task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from metafora_trio import Claim, TaskState
from metafora_trio.contract import ClaimKind, node_name
from metafora_trio.testing.simulation import Expectations, Monitor
from metafora_trio_zookeeper._connection import EventType
from metafora_trio_zookeeper._layout import Layout

from ._ensemble import SimulatedZooKeeper
from ._namespace_reader import NamespaceReader
from ._server import Entry

__all__ = ["LogChecker"]


class LogChecker:
    """Checks transactions and reports to a monitor.

    Args:
        zookeeper: the ensemble.
        layout: the layout of the cluster's namespace.
        reader: a reader of the same namespace.
        monitor: takes each violation and each claim that goes.
        expectations: the requests that clients have made.

    Attributes:
        calm: false once a fault may have cost a node its session.
        changes: the number of transactions that changed something.
        tokens: for each task, the highest token that has owned it so far.
    """

    def __init__(
        self,
        zookeeper: SimulatedZooKeeper,
        layout: Layout,
        reader: NamespaceReader,
        monitor: Monitor,
        expectations: Expectations,
    ) -> None:
        self.calm: bool = True
        self.changes: int = 0
        self.tokens: dict[str, int] = {}
        self._zookeeper = zookeeper
        self._layout = layout
        self._reader = reader
        self._monitor = monitor
        self._expectations = expectations
        self._log = zookeeper.log
        self._read = 0

    def read_log(self) -> None:
        """Check the transactions since the last call."""
        log = self._log
        while self._read < len(log):
            entry = log[self._read]
            self._read += 1
            if entry.events:
                self.changes += 1
                self._check(entry)

    def _check(self, entry: Entry) -> None:
        layout = self._layout
        gone: dict[str, list[Claim]] = defaultdict(list)
        removed: list[str] = []
        for event, path in entry.events:
            if path == layout.root and (root := self._zookeeper.tree.get(path)) is not None and root.data:
                layout.check_record(root.data)  # learn the generation; no claim is older than its namespace
            above, _, name = path.rpartition("/")
            directory, _, bucket = above.rpartition("/")
            if directory == layout.claims and (claim := layout.parse_claim(bucket, name)):
                self._check_queue(claim)
                if event is EventType.DELETED:
                    gone[claim.task].append(claim)
                    self._monitor.claim_gone(claim.task, claim.node, claim.seq)
            elif directory == layout.tasks and event is EventType.DELETED:
                removed.append(name)
            elif above == layout.nodes and event is EventType.CREATED:
                self._monitor.sessions[node_name(name)] += 1
            elif above == layout.nodes and event is EventType.DELETED:
                self._check_left(entry, name)
        for task in removed:
            self._check_end(entry, task, gone[task])
        # Only if it is the last: later transactions of the same moment may have changed the contents.
        if not entry.ended and entry is self._zookeeper.log[-1]:
            for claims in gone.values():
                for claim in claims:
                    self._check_given_up(claim)

    def _check_left(self, entry: Entry, identity: str) -> None:
        """Check that a node leaves the cluster only if it was told to, or if a fault may have cost it its session."""
        told = node_name(identity) in self._expectations.leaving
        if entry.origin is not None and self.calm and not told:
            self._monitor.violation(f"{node_name(identity)} left without being told to, and nothing had disturbed it")

    def _check_queue(self, changed: Claim) -> None:
        """Check that the token grows with each owner and that no session has two claims. Relies on no assumption."""
        task, claims = changed.task, self._reader.claims(changed.task)
        token, node = min(claims, default=(self.tokens.get(task, -1), ""))
        if token < self.tokens.get(task, -1):
            self._monitor.violation(f"{task} is owned by {node} with token {token} after token {self.tokens[task]}")
        self.tokens[task] = token
        if sum(node == changed.node for _, node in claims) > 1:
            self._monitor.violation(f"{changed.node} has more than one claim for {task}: {sorted(claims)}")

    def _check_end(self, entry: Entry, task: str, claims: Sequence[Claim]) -> None:
        """Check that a task ends with its owner's claim, after its handler has ended or a client has deleted it."""
        monitor = self._monitor
        if not claims:
            monitor.violation(f"{task} ended without its claim")
        for run in monitor.runs[task]:
            if monitor.counts(run):
                monitor.violation(f"{task} ended while {run} still runs")
        state = entry.changes.get(self._layout.state_path(task))
        if state is None:
            if task not in self._expectations.deleted:
                monitor.violation(f"{task} was removed, but no client had deleted it")
        elif not TaskState.decode(state.data).state.terminal:
            monitor.violation(f"{task} ended in the state {TaskState.decode(state.data).state}")
        elif not any((task, claim.seq) in monitor.ended for claim in claims):
            monitor.violation(f"{task} ended by {claims}, whose handler had not ended")

    def _check_given_up(self, claim: Claim) -> None:
        """Check that a node that gives up a task it ran or bid for leaves it to another node, unless it had to give it
        up."""
        task, monitor = claim.task, self._monitor
        if not self._reader.is_live(task) or self._reader.claims(task):
            return
        if claim.kind is not ClaimKind.BID and (task, claim.seq) not in monitor.started:
            return
        excused = (task, claim.seq) in monitor.ended or self._expectations.stopped[task] or monitor.is_void(claim.node)
        excused = excused or claim.node in monitor.lost or task in self._expectations.refused
        if not excused and node_name(claim.node) not in self._expectations.leaving:
            monitor.violation(f"{claim.node} gave up {task} without an heir or a reason")
