"""A small model of a cluster, which drives the real `reconcile` and `may_open` through any schedule.

Concurrent activity is cut into steps: a request reaches the server, an event reaches a node, a scope closes, a handler
returns, a node dies. The explorer of the model chooses the next step among all possible steps. Messages travel in
order, in one queue each way for each node, so each view lags by its own number of messages. The steps themselves assert
the invariants:

* S1: no task ever has two open scopes. S2: a task that was accepted as done never starts again.
* S3: an end is accepted only from the owner, and only for the submitted task that it ran.
* S4: a scope opens only under the claim that owns the task at the server at that instant.
* S5: a scope is stopped only for an heir that has bid for the task, and a live task is handed over only to that heir.

`World.settle` (in `claims_world.py`) checks liveness: without further faults, the cluster comes to rest with every task
running once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from metafora_trio import Claim, NodeInfo, StopReason
from metafora_trio._model import reconcile as do
from metafora_trio._model.reconcile import RunState, may_open, reconcile
from metafora_trio._model.view import (
    ClaimAdded,
    ClaimRemoved,
    NodeAdded,
    NodeRemoved,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
    ViewEvent,
)
from metafora_trio.contract import ClaimKind, ClusterView

Step = tuple[str, Callable[[], None]]
OPEN = (RunState.RUNNING, RunState.CLOSING)


@dataclass
class ModelRun:
    claim: Claim
    state: RunState = RunState.OPENING
    give_back: bool = False
    generation: int = -1


@dataclass(frozen=True)
class Reply:
    """The answer to a request. It arrives after the events of that request."""

    task: str
    leaving: Claim | None = None
    pending: bool = False
    read: tuple[Claim | None, int, bool] | None = None
    """The claim of a read (None: sent along with a new claim), the generation found (-1: none), and whether deleted."""


@dataclass
class Server:
    """The broker's state. Each method is one transaction."""

    truth: ClusterView = field(default_factory=ClusterView)
    generations: dict[str, int] = field(default_factory=dict)
    done: set[tuple[str, int]] = field(default_factory=set)
    seq: int = 0
    nodes: dict[str, ModelNode] = field(default_factory=dict)

    def commit(self, *events: ViewEvent) -> None:
        for event in events:
            self.truth.apply(event)
            for node in self.nodes.values():
                node.inbox.append(event)

    def submit(self, task: str) -> None:
        self.generations[task] = self.generations.get(task, -1) + 1
        self.commit(TaskAdded(task))

    def add_claim(self, task: str, node: str, kind: ClaimKind) -> None:
        self.seq += 1
        self.commit(ClaimAdded(Claim(self.seq, task, node, kind)))

    def remove(self, claim: Claim, if_there: Claim | None = None) -> None:
        queue = self.truth.queue(claim.task)
        if claim in queue and (if_there is None or if_there in queue):
            self.commit(ClaimRemoved(claim))

    def finish(self, claim: Claim, generation: int, deleted: bool) -> None:
        task = claim.task
        if task in self.truth.tasks and self.truth.deleted(task) == deleted and claim in self.truth.queue(task):
            assert self.truth.head(task) == claim, f"S3: {claim} ended a task that it does not own"
            assert deleted or self.generations[task] == generation, f"S3: the end of another {task} was accepted"
            self.done.add((task, self.generations[task]))
            self.commit(TaskRemoved(task), ClaimRemoved(claim))

    def expire(self, identity: str, order: int) -> None:
        """End a session: its events come in one of three orders."""
        claims = sorted(claim for queue in self.truth.claims_of(identity).values() for claim in queue)
        events: list[ViewEvent] = [ClaimRemoved(claim) for claim in (reversed(claims) if order == 2 else claims)]
        events.insert(0 if order == 0 else len(events), NodeRemoved(identity))
        self.commit(*events)


@dataclass
class ModelNode:
    """A membership without Trio: implements `NodeSituation` and carries out the actions."""

    server: Server
    me: str
    view: ClusterView = field(default_factory=ClusterView)
    inbox: deque[ViewEvent | Reply] = field(default_factory=deque)
    outbox: deque[tuple[Callable[[], None], Reply]] = field(default_factory=deque)
    pending: set[str] = field(default_factory=set)
    leaving: set[Claim] = field(default_factory=set)
    runs: dict[str, ModelRun] = field(default_factory=dict)
    ahead: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Tasks read together with the claim, before it was known which node owns them."""
    draining: bool = False
    current: bool = True
    alive: bool = True
    stops: int = 0

    # ---- NodeSituation

    @property
    def alone(self) -> bool:
        return not any(identity != self.me and not node.draining for identity, node in self.view.nodes.items())

    def is_leaving(self, claim: Claim) -> bool:
        return claim in self.leaving

    def consents(self, task: str, heir: str) -> bool:
        return sum(run.state is RunState.RUNNING for run in self.runs.values()) - 1 >= self.view.load(heir)

    def wants(self, task: str) -> bool:
        owner = self.view.nodes.get(self.view.owner(task) or "")
        return owner is None or owner.draining or self.view.load(owner.identity) - 1 >= self.view.load(self.me)

    def refuses(self, task: str) -> bool:
        return False

    # ---- requests

    def ask(self, effect: Callable[[], None], reply: Reply) -> None:
        if reply.leaving is not None:
            if reply.leaving in self.leaving:
                return
            self.leaving.add(reply.leaving)
        if reply.pending:
            self.pending.add(reply.task)
        self.outbox.append((effect, reply))

    def queue_up(self, task: str, kind: ClaimKind) -> None:
        self.ask(lambda: self.server.add_claim(task, self.me, kind), Reply(task, pending=True))
        self.read(task, None)

    def read(self, task: str, claim: Claim | None) -> None:
        self.ask(lambda: None, Reply(task, read=(claim, -1, False)))

    def begin_drain(self) -> None:
        self.draining = True
        info = NodeInfo(self.me, draining=True)
        self.ask(lambda: self.server.commit(NodeAdded(info)), Reply(""))
        self.look_at_everything()

    # ---- possible steps

    def steps(self) -> Iterator[Step]:
        if self.current:
            if self.outbox:
                yield f"send {self.me}", self.send
            if self.inbox:
                yield f"hear {self.me}", self.hear
            for task in self.server.truth.tasks:
                if self.may_claim(task):
                    yield f"claim {self.me} {task}", partial(self.queue_up, task, ClaimKind.CLAIM)
                elif self.may_bid(task):
                    yield f"bid {self.me} {task}", partial(self.queue_up, task, ClaimKind.BID)
        for task, run in self.runs.items():
            if run.state is RunState.OPENING and task in self.ahead:
                yield f"open {self.me} {task}", partial(self.open_ahead, task)
            elif run.state is RunState.RUNNING:
                yield f"return {self.me} {task}", partial(self.close, task, RunState.FINISHED)
                yield f"give back {self.me} {task}", partial(self.give_back, task)
            elif run.state is RunState.CLOSING:
                yield f"close {self.me} {task}", partial(self.close, task, RunState.CLOSED)
                yield f"end {self.me} {task}", partial(self.close, task, RunState.FINISHED)

    def may_claim(self, task: str) -> bool:
        return task in self.view.unclaimed and self.may_take(task)

    def may_bid(self, task: str) -> bool:
        owner = self.view.nodes.get(self.view.owner(task) or "")
        if owner is None or owner.identity == self.me or task not in self.view.tasks:
            return False
        load = self.view.load(self.me) + len(self.pending) + 1
        return self.may_take(task) and (owner.draining or self.view.load(owner.identity) - 1 >= load)

    def may_take(self, task: str) -> bool:
        busy = self.draining or task in self.pending or task in self.runs or self.view.own_claims(task, self.me)
        return not busy

    # ---- the steps

    def send(self) -> None:
        effect, reply = self.outbox.popleft()
        effect()
        if reply.read is not None:
            found = reply.task in self.server.truth.tasks
            generation = self.server.generations[reply.task] if found else -1
            reply = replace(reply, read=(reply.read[0], generation, self.server.truth.deleted(reply.task)))
        self.inbox.append(reply)

    def hear(self) -> None:
        item = self.inbox.popleft()
        match item:
            case Reply():
                if item.leaving is not None:
                    self.leaving.discard(item.leaving)
                if item.pending:
                    self.pending.discard(item.task)
                if item.read is not None:
                    claim, generation, deleted = item.read
                    run = self.runs.get(item.task)
                    if claim is None:
                        self.ahead[item.task] = (generation, deleted)
                    elif run is not None and run.claim == claim and run.state is RunState.OPENING:
                        self.open(item.task, generation, deleted)
                self.look_at(item.task)
            case NodeAdded() | NodeRemoved():
                self.view.apply(item)
                self.look_at_contested()
                if self.draining and self.alone:
                    self.look_at_everything()
            case ClaimAdded(claim) | ClaimRemoved(claim):
                self.view.apply(item)
                self.look_at(claim.task)
            case TaskAdded(task) | TaskDeleted(task) | TaskRemoved(task):
                self.view.apply(item)
                if self.ahead.pop(task, None) and task in self.runs and self.runs[task].state is RunState.OPENING:
                    del self.runs[task]  # the task that was read is out of date
                self.look_at(task)

    def open_ahead(self, task: str) -> None:
        self.open(task, *self.ahead.pop(task))

    def open(self, task: str, generation: int, deleted: bool) -> None:
        run, claim = self.runs[task], self.runs[task].claim
        if generation < 0 or deleted or not self.current or not may_open(task, claim, self):
            del self.runs[task]
            self.look_at(task)
            return
        assert not self.draining, f"{task} starts on {self.me}, which leaves"
        assert self.server.truth.head(task) == claim, f"S4: {claim} opens, but {self.server.truth.queue(task)}"
        assert (task, generation) not in self.server.done, f"S2: {task} starts again"
        others = [node.me for node in self.server.nodes.values() if node is not self and node.has_open(task)]
        assert not others, f"S1: {task} starts on {self.me} while it runs on {others}"
        run.state, run.generation = RunState.RUNNING, generation

    def has_open(self, task: str) -> bool:
        return task in self.runs and self.runs[task].state in OPEN

    def close(self, task: str, state: RunState) -> None:
        self.runs[task].state = state
        if self.current:
            self.look_at(task)
            self.look_at_contested()

    def give_back(self, task: str) -> None:
        self.runs[task].give_back = True
        self.runs[task].state = RunState.CLOSING

    def look_at_everything(self) -> None:
        for task in {**dict.fromkeys(self.view.claims_of(self.me)), **dict.fromkeys(self.runs)}:
            self.look_at(task)

    def look_at_contested(self) -> None:
        for task in [task for task in self.view.contested if self.view.own_claims(task, self.me)]:
            self.look_at(task)

    def tick(self) -> None:
        """The periodic work of a node, done even if no event arrives."""
        self.look_at_contested()

    def look_at(self, task: str) -> None:
        again = self.current
        while again:
            again = False
            run = self.runs.get(task)
            for action in reconcile(task, self, run):
                again = self.carry_out(task, run, action) or again

    def carry_out(self, task: str, run: ModelRun | None, action: do.Action) -> bool:
        server = self.server
        match action:
            case do.Start(claim):
                self.runs[task] = ModelRun(claim)
                if task not in self.ahead:
                    self.read(task, claim)
            case do.Stop(reason, heir):
                assert run is not None
                if run.state is RunState.RUNNING:
                    if reason is StopReason.HANDED_OVER:
                        kinds = [c.kind for c in self.view.queue(task) if c.node == heir]
                        assert kinds[0] is ClaimKind.BID, f"S5: {task} is stopped for {heir}, which has not bid"
                    self.stops += 1
                run.state = RunState.CLOSING
            case do.Release(claim):
                owns = self.view.head(task) == claim and self.view.orphaned.get(task) != claim
                if owns and task in self.view.tasks and not self.draining:
                    assert run is not None, f"S5: {claim} is given up without an heir"
                    assert run.give_back, f"S5: {claim} is given up without an heir"
                self.ask(lambda: server.remove(claim), Reply(task, claim))
            case do.Withdraw(claim, head):
                self.ask(lambda: server.remove(claim, if_there=head), Reply(task, claim))
            case do.HandOver(claim, heir_claim):
                self.ask(lambda: server.remove(claim, if_there=heir_claim), Reply(task, claim))
            case do.Finish(claim, deleted):
                generation = run.generation if run is not None else -1
                self.ask(lambda: server.finish(claim, generation, deleted), Reply(task, claim))
            case do.Discard():
                assert run is not None
                run.state = RunState.CLOSED
                return True
            case do.Forget():
                del self.runs[task]
                return True
        return False
