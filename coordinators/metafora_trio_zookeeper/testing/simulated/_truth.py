"""What is really so in a simulated cluster: the znodes as the leader of the ensemble has them.

Nodes only ever see what was so a moment ago. From here one sees each transaction at the instant of its commit, so a
claim that goes while its task still runs is found even if nobody else was quick enough to take the task.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from metafora_trio import Claim, StateName, TaskState
from metafora_trio.contract import ClaimKind
from metafora_trio.testing.simulation import Expectations, Monitor
from metafora_trio_zookeeper._connection import EventType
from metafora_trio_zookeeper._layout import Layout

from ._ensemble import SimulatedZooKeeper
from ._server import Entry

__all__ = ["Truth"]


class Truth:
    """Reads the log and the znodes of a simulated ensemble.

    Args:
        zookeeper: the ensemble.
        layout: of the cluster's namespace.

    Attributes:
        monitor: who is told of what is wrong; set by who makes both.
        wishes: what clients have asked for.
        changes: counts the transactions that changed something.
    """

    monitor: Monitor

    def __init__(self, zookeeper: SimulatedZooKeeper, layout: Layout) -> None:
        self.changes: int = 0
        self.expectations = Expectations()
        self._zookeeper = zookeeper
        self._layout = layout
        self._read = 0
        self._tokens: dict[str, int] = {}

    # ---- what is so

    def owner(self, task: str) -> tuple[str, int] | None:
        """Who owns a task: the session's identity, and the token. Nobody owns one that is over."""
        claims = self._claims(task)
        if not claims or self._layout.task_path(task) not in self._zookeeper.tree:
            return None
        token, node = min(claims)
        return node, token

    def tasks(self) -> set[str]:
        """All tasks, those that are being deleted too."""
        return set(self._names("tasks"))

    def state(self, task: str) -> StateName | None:
        """The recorded state of a task."""
        found = self._zookeeper.tree.get(self._layout.state_path(task))
        return None if found is None else TaskState.decode(found.data).state

    def node_commands(self) -> set[str]:
        """The commands to nodes that are not carried out yet."""
        return set(self._children(self._layout.node_commands))

    def sessions_of(self, name: str) -> dict[str, int]:
        """The sessions of all nodes of a name: identities and ZooKeeper's session ids."""
        nodes, tree = self._layout.nodes, self._zookeeper.tree
        return {id: tree[f"{nodes}/{id}"].owner for id in self._children(nodes) if id.rpartition(".")[0] == name}

    def _claims(self, task: str) -> list[tuple[int, str]]:
        bucket = self._layout.bucket(task)
        names = (name for name in self._children(f"{self._layout.claims}/{bucket}") if name.startswith(f"{task}~"))
        return [(claim.seq, claim.node) for name in names if (claim := self._layout.parse_claim(bucket, name))]

    def _children(self, path: str) -> Iterable[str]:
        found = self._zookeeper.tree.get(path)
        return () if found is None else found.children

    def _names(self, directory: str) -> Iterator[str]:
        for bucket in self._layout.buckets:
            yield from self._children(f"{self._layout.root}/{directory}/{bucket}")

    # ---- what happens

    def read_log(self) -> None:
        """Look at the transactions since the last time."""
        log = self._zookeeper.log
        while self._read < len(log):
            entry = log[self._read]
            self._read += 1
            if entry.events:
                self.changes += 1
                self._look_at(entry)

    def _look_at(self, entry: Entry) -> None:
        layout = self._layout
        gone: dict[str, list[Claim]] = defaultdict(list)
        removed: list[str] = []
        for event, path in entry.events:
            above, _, name = path.rpartition("/")
            directory, _, bucket = above.rpartition("/")
            if directory == layout.claims and (claim := layout.parse_claim(bucket, name)):
                self._check_queue(claim)
                if event is EventType.DELETED:
                    gone[claim.task].append(claim)
                    self.monitor.claim_gone(claim.task, claim.node, claim.seq)
            elif directory == layout.tasks and event is EventType.DELETED:
                removed.append(name)
        for task in removed:
            self._check_end(entry, task, gone[task])
        # What came after it in the same instant may have changed what it left.
        if not entry.ended and entry is self._zookeeper.log[-1]:
            for claims in gone.values():
                for claim in claims:
                    self._check_given_up(claim)

    def _check_queue(self, changed: Claim) -> None:
        """Whatever assumption is broken, the token grows with every owner, and no session queues up twice."""
        task, claims = changed.task, self._claims(changed.task)
        token, node = min(claims, default=(self._tokens.get(task, -1), ""))
        if token < self._tokens.get(task, -1):
            self.monitor.violation(f"{task} is owned by {node} with token {token} after token {self._tokens[task]}")
        self._tokens[task] = token
        if sum(node == changed.node for _, node in claims) > 1:
            self.monitor.violation(f"{changed.node} has more than one claim for {task}: {sorted(claims)}")

    def _check_end(self, entry: Entry, task: str, claims: Sequence[Claim]) -> None:
        """A task is over: by its owner, whose handler had ended, or because a client has deleted it."""
        monitor = self.monitor
        if not claims:
            monitor.violation(f"{task} ended without its claim")
        for run in monitor.runs[task]:
            if monitor.counts(run):
                monitor.violation(f"{task} ended while {run} still runs")
        state = entry.changes.get(self._layout.state_path(task))
        if state is None:
            if task not in self.expectations.deleted:
                monitor.violation(f"{task} was removed, and nobody had deleted it")
        elif not TaskState.decode(state.data).state.terminal:
            monitor.violation(f"{task} ended in the state {TaskState.decode(state.data).state}")
        elif not any((task, claim.seq) in monitor.ended for claim in claims):
            monitor.violation(f"{task} ended by {claims}, whose handler had not ended")

    def _check_given_up(self, claim: Claim) -> None:
        """Who gives up a task that it ran, or that it had asked for, leaves it to another, unless it was told to."""
        task, monitor, tree = claim.task, self.monitor, self._zookeeper.tree
        znode = tree.get(self._layout.task_path(task))
        if znode is None or znode.version or self._claims(task):
            return
        if claim.kind is not ClaimKind.BID and (task, claim.seq) not in monitor.started:
            return
        told = (task, claim.seq) in monitor.ended or self.expectations.stopped[task] or monitor.is_void(claim.node)
        if not told and claim.node.rpartition(".")[0] not in self.expectations.leaving:
            monitor.violation(f"{claim.node} leaves {task} to nobody, and nobody had told it to")

    # ---- what is to be so at rest

    def unrest(self, members: Iterable[str], able: Iterable[str]) -> Iterator[str]:
        """All that is not as it should be in a cluster at rest.

        Args:
            members: the identities of the sessions of all nodes that run.
            able: the names of those that may take tasks.
        """
        tasks = self.tasks()
        loads = dict.fromkeys(able, 0)
        for task in sorted(tasks):
            yield from self._unrest_of(task, loads)
        if loads and max(loads.values()) - min(loads.values()) > 1:
            yield f"the load is uneven: {loads}"
        yield from self._left_over(tasks, sorted(members))
        for task, there in self.expectations.there.items():
            if not there and task in {*tasks, *self._names("states")}:
                yield f"{task} was deleted, and is still there"
            elif there and task not in tasks and self.state(task) is None:
                yield f"{task} was submitted, and is forgotten"

    def _unrest_of(self, task: str, loads: dict[str, int]) -> Iterator[str]:
        claims, runs = self._claims(task), self.monitor.runs[task]
        node = self._zookeeper.tree[self._layout.task_path(task)]
        if node.version:
            yield f"{task} was deleted, and is still there"
        elif len(claims) != 1:
            yield f"{task} has the claims {sorted(claims)}"
        elif [(run.token, run.node) for run in runs] != claims:
            yield f"{task} is owned by {claims}, and runs: {[str(run) for run in runs]}"
        elif (name := runs[0].place.name) in loads:
            loads[name] += 1
        else:
            yield f"{task} runs on {name}"

    def _left_over(self, tasks: set[str], members: list[str]) -> Iterator[str]:
        layout = self._layout
        for task in self._names("states"):
            if task not in tasks and self.state(task) is StateName.RUNNABLE:
                yield f"{task} has a state, and is not there"
        for task in tasks:
            if self.state(task) is not StateName.RUNNABLE:
                yield f"{task} is there, and its state is {self.state(task)}"
        for bucket in layout.buckets:
            for name in self._children(f"{layout.claims}/{bucket}"):
                if (claim := layout.parse_claim(bucket, name)) is None or claim.task not in tasks:
                    yield f"the claim {name} is left over"
                elif claim.kind is ClaimKind.BID and len(self._claims(claim.task)) > 1:
                    yield f"the bid {name} is left over"
        for name in [*sorted(self.node_commands()), *self._names("commands")]:
            yield f"the command {name} is left over"
        if (present := sorted(self._children(layout.nodes))) != members:
            yield f"the members are {present}, and the nodes that run are {members}"
        for id in present:
            if json.loads(self._zookeeper.tree[layout.node_path(id)].data).get("frozen"):
                yield f"{id} is still frozen"
