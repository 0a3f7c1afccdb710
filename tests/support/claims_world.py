"""The world around the model: it chooses the next step, injects faults, and checks the state at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from metafora_trio import NodeInfo
from metafora_trio._model.reconcile import RunState
from metafora_trio._model.view import ClaimAdded, NodeAdded, TaskAdded, TaskDeleted
from metafora_trio.contract import ClusterView

from .claims_model import ModelNode, Server, Step

ENDINGS = ("return", "give back")


class World:
    """A server, some nodes and tasks, a budget of faults, and a budget of handlers that end by themselves.

    The second budget is small, so that most tasks still run when a fault happens.
    """

    def __init__(self, *, nodes: int, tasks: int, faults: dict[str, int], endings: int) -> None:
        self.server = Server()
        self.budget = dict(faults)
        self.endings = endings
        self.number = 0
        self.trace: list[str] = []
        for _ in range(nodes):
            self.join()
        for i in range(tasks):
            self.server.submit(f"t{i}")

    @property
    def nodes(self) -> list[ModelNode]:
        return list(self.server.nodes.values())

    # ---- exploring

    def run(self, choose: Callable[[int], int], steps: int) -> None:
        """Take steps, each chosen among all possible steps, then let everything settle."""
        for _ in range(steps):
            self.step(choose)
        self.settle(choose)

    def step(self, choose: Callable[[int], int]) -> None:
        possible = self.ordinary_steps(endings=self.endings > 0)
        possible = [*possible * 4, *self.faults()]  # otherwise all faults would happen before any task runs
        if possible:
            self.take(possible[choose(len(possible))])

    def take(self, step: Step) -> None:
        name, act = step
        self.trace.append(name)
        self.endings -= name.startswith(ENDINGS)
        act()

    def ordinary_steps(self, *, endings: bool) -> list[Step]:
        steps = (step for node in self.nodes if node.alive for step in node.steps())
        return [step for step in steps if endings or not step[0].startswith(ENDINGS)]

    def faults(self) -> Iterator[Step]:
        for node in self.nodes:
            if not node.alive:  # not a fault itself, but the consequence of one
                for order in range(3):
                    yield f"expire {node.me} {order}", partial(self.expire, node, order)
            elif not node.current:
                yield f"reconnect {node.me}", partial(self.reconnect, node)
        for fault in [fault for fault, left in self.budget.items() if left > 0]:
            for name, act in self.faults_of(fault):
                yield name, partial(self.spend, fault, act)

    def spend(self, fault: str, act: Callable[[], None]) -> None:
        self.budget[fault] -= 1
        act()

    def faults_of(self, fault: str) -> Iterator[Step]:
        tasks = self.server.truth.tasks
        alive = [node for node in self.nodes if node.alive]
        match fault:
            case "crash":
                for node in alive:
                    yield f"crash {node.me}", partial(self.crash, node)
            case "drain":
                for node in alive:
                    if not node.draining:
                        yield f"drain {node.me}", node.begin_drain
            case "disconnect":
                for node in alive:
                    if node.current:
                        for sent in range(len(node.outbox) + 1):
                            yield f"cut {node.me} {sent}", partial(self.disconnect, node, sent)
            case "delete":
                for task, deleted in tasks.items():
                    if not deleted:
                        yield f"delete {task}", partial(self.server.commit, TaskDeleted(task))
            case _:
                assert fault == "submit"
                for task in self.server.generations:
                    if task not in tasks:
                        yield f"submit {task}", partial(self.server.submit, task)

    # ---- faults

    def join(self) -> None:
        self.number += 1
        node = ModelNode(self.server, f"n.{self.number}")
        self.server.nodes[node.me] = node
        self.server.commit(NodeAdded(NodeInfo(node.me)))
        node.view = self.snapshot()
        node.inbox.clear()

    def crash(self, node: ModelNode) -> None:
        """Kill the process. Its session still exists, and requests in flight may still arrive."""
        node.alive = False
        node.runs.clear()

    def expire(self, node: ModelNode, order: int) -> None:
        for effect, _ in node.outbox:
            effect()
        del self.server.nodes[node.me]
        self.server.expire(node.me, order)
        self.join()

    def disconnect(self, node: ModelNode, sent: int) -> None:
        """Cut the connection: the first `sent` requests take effect, the rest do not, and all replies are lost."""
        for effect, _ in list(node.outbox)[:sent]:
            effect()
        node.outbox.clear()
        node.current = False
        node.runs = {task: run for task, run in node.runs.items() if run.state is not RunState.OPENING}

    def reconnect(self, node: ModelNode) -> None:
        """Reconnect, with the barrier answered: no request is in flight, and the lists are up to date."""
        node.inbox.clear()
        node.pending.clear()
        node.leaving.clear()
        node.ahead.clear()
        node.view = self.snapshot()
        node.current = True
        if node.draining:
            node.draining = False
            node.begin_drain()
        node.look_at_everything()

    def snapshot(self) -> ClusterView:
        view, truth = ClusterView(), self.server.truth
        for node in truth.nodes.values():
            view.apply(NodeAdded(node))
        for task, deleted in truth.tasks.items():
            view.apply(TaskAdded(task))
            if deleted:
                view.apply(TaskDeleted(task))
        for claim in truth.claims():
            view.apply(ClaimAdded(claim))
        return view

    # ---- liveness

    def settle(self, choose: Callable[[int], int]) -> None:
        """Run without faults and ending handlers: soon every task must run on one node, and no step may be left."""
        for node in self.nodes:
            if not node.alive:
                self.expire(node, 0)
            elif not node.current:
                self.reconnect(node)
        for _ in range(400):
            possible = self.ordinary_steps(endings=False)
            if not possible:
                for node in self.nodes:
                    node.tick()
                possible = self.ordinary_steps(endings=False)
            if not possible:
                break
            self.take(possible[choose(len(possible))])
        else:
            raise AssertionError(f"nothing settles: {self.trace[-12:]}")
        self.check_rest()

    def check_rest(self) -> None:
        truth = self.server.truth
        able = [node for node in self.nodes if not node.draining]
        for task in {*truth.tasks, *truth.claimed_tasks()}:
            queue = truth.queue(task)
            owner = self.server.nodes.get(truth.owner(task) or "")
            if not able:
                assert not queue, f"{task} is held by nodes that only leave: {queue}"
                continue
            assert task in truth.tasks, f"claims are left on {task}, which is gone: {queue}"
            assert not truth.deleted(task), f"{task} was deleted and still exists"
            assert owner is not None, f"{task} is lost"
            assert len(queue) == 1, f"{task} is contested for ever: {queue}"
            assert not owner.draining, f"{task} is still owned by a draining node"
            assert owner.runs[task].state is RunState.RUNNING, f"{task} does not run"
        for node in self.nodes:
            owned = set(truth.owned_by(node.me))
            assert set(node.runs) == owned, f"{node.me} runs {set(node.runs)} and owns {owned}"
        loads = [len(truth.owned_by(node.me)) for node in able]
        assert not able or max(loads) - min(loads) <= 1, f"uneven: {loads}"
