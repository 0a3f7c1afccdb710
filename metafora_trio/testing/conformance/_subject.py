"""What the conformance suite stands on: a subject, sessions that know each other, and waiting for a condition."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from metafora_trio import Claim, Coordinator, NodeInfo, Task
from metafora_trio.contract import BrokerClient, Changes, Session

__all__ = ["Subject", "eventually", "get_claim", "members", "own", "raises", "submit", "told"]

F = TypeVar("F", Session, BrokerClient)

PATIENCE = 20.0
"""Seconds until a condition that should come true is given up: far more than any broker needs."""
LOOK_AGAIN = 0.02
"""Seconds between two looks at what no change announces, such as the number of requests under way."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tested.

    Attributes:
        coordinator: one whose cluster is empty.
        expire: ends a session at the broker, as an operator would, behind its back.
    """

    coordinator: Coordinator
    expire: Callable[[Session], Awaitable[None]]


async def eventually(follower: F, condition: Callable[[F], object]) -> None:
    """Wait until a condition holds for what a session or client sees. A checkpoint.

    Takes its changes. The condition is looked at after every change, in the same step.

    Raises:
        trio.TooSlowError: it did not come true.
    """
    await trio.lowlevel.checkpoint()
    with trio.fail_after(PATIENCE):
        while not condition(follower):
            with trio.move_on_after(LOOK_AGAIN):
                await follower.wait_changed()
            follower.take_changes()


async def told(follower: Session | BrokerClient, condition: Callable[[], object]) -> Changes:
    """Wait until a condition holds, and return all changes that were reported until then. Unlike `eventually` it
    looks only when a change is reported.

    Raises:
        trio.TooSlowError: it did not come true, or no change told of it.
    """
    gathered = Changes()
    with trio.fail_after(PATIENCE):
        while True:
            await follower.wait_changed()
            changes = follower.take_changes()
            gathered.tasks.update(changes.tasks)
            gathered.nodes |= changes.nodes
            gathered.everything |= changes.everything
            if condition():
                return gathered


@contextmanager
def raises(error: type[Exception], says: str = "") -> Iterator[None]:
    """Expect an error whose message contains a text. (pytest's own would make pytest a need of this package.)"""
    caught: Exception | None = None
    try:
        yield
    except error as raised:
        caught = raised
    assert caught is not None, f"{error.__name__} was not raised"
    assert says in str(caught), caught


@asynccontextmanager
async def members(subject: Subject, *names: str) -> AsyncGenerator[Sequence[Session]]:
    """Open a session for each name, and wait until each sees all of them."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(subject.coordinator.open_session(NodeInfo(name))) for name in names]
        everybody = {session.node.identity for session in sessions}
        for session in sessions:
            await eventually(session, lambda it: everybody <= it.view.nodes.keys())
        yield sessions


async def submit(subject: Subject, sessions: Sequence[Session], *ids: str) -> None:
    """Submit tasks, and wait until every session sees them."""
    async with subject.coordinator.open_client() as client:
        await client.submit([Task(id, {"of": id}) for id in ids], again=False)
    for session in sessions:
        await eventually(session, lambda it: set(ids) <= it.view.tasks.keys())


def own(session: Session, task: str) -> Claim | None:
    """The first claim that a session has in a task's queue, as it sees it itself."""
    claims = session.view.own_claims(task, session.node.identity)
    return claims[0] if claims else None


async def get_claim(session: Session, task: str, *, bid: bool = False, seen_by: Sequence[Session] = ()) -> Claim:
    """Claim a task or bid for it, and wait until the session and others see the claim."""
    (session.bid if bid else session.claim)(task)
    for other in (session, *seen_by):
        await eventually(other, lambda it: it.view.own_claims(task, session.node.identity))
    claim = own(session, task)
    assert claim is not None
    return claim
