"""Helpers of the conformance suite: the subject, sessions that see each other, and waiting for a condition."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from metafora_trio import Claim, Coordinator, NodeInfo, Task
from metafora_trio.contract import BrokerClient, Changes, Session, TaskSnapshot

__all__ = ["Subject", "eventually", "get_claim", "look_up", "members", "own", "raises", "submit", "until_reported"]

F = TypeVar("F", Session, BrokerClient)

PATIENCE = 20.0
"""Seconds to wait for a condition before giving up: far more than any broker needs."""
LOOK_AGAIN = 0.02
"""Seconds between two checks of a condition that no change announces, such as the number of requests in flight."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The coordinator to test.

    Attributes:
        coordinator: a coordinator whose cluster is empty.
        expire: expires a session at the broker, as an operator would, without going through the session.
    """

    coordinator: Coordinator
    expire: Callable[[Session], Awaitable[None]]


async def eventually(follower: F, condition: Callable[[F], object]) -> None:
    """Wait until a condition holds for a session or client. A checkpoint.

    Takes the changes of the session or client. Checks the condition after every change, in the same step.

    Raises:
        trio.TooSlowError: the condition did not come true within `PATIENCE`.
    """
    await trio.lowlevel.checkpoint()
    with trio.fail_after(PATIENCE):
        while not condition(follower):
            with trio.move_on_after(LOOK_AGAIN):
                await follower.wait_changed()
            follower.take_changes()


async def until_reported(follower: Session | BrokerClient, condition: Callable[[], object]) -> Changes:
    """Wait until a condition holds, and return all changes reported until then.

    Unlike `eventually`, check the condition only when a change is reported.

    Raises:
        trio.TooSlowError: the condition did not come true, or no change reported it, within `PATIENCE`.
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
    """Expect an error whose message contains a text. (`pytest.raises` would make this package depend on pytest.)"""
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
        identities = {session.node.identity for session in sessions}
        for session in sessions:
            await eventually(session, lambda it: identities <= it.view.nodes.keys())
        yield sessions


async def submit(subject: Subject, sessions: Sequence[Session], *ids: str) -> None:
    """Submit tasks, and wait until every session sees them."""
    async with subject.coordinator.open_client() as client:
        await client.submit([Task(id, {"of": id}) for id in ids], again=False)
    for session in sessions:
        await eventually(session, lambda it: set(ids) <= it.view.tasks.keys())


async def look_up(client: BrokerClient, task: str) -> TaskSnapshot:
    """Look up one task."""
    (snapshot,) = await client.look_up([task])
    return snapshot


def own(session: Session, task: str) -> Claim | None:
    """Return the session's own first claim in a task's queue, as its view shows it, or None."""
    claims = session.view.own_claims(task, session.node.identity)
    return claims[0] if claims else None


async def get_claim(session: Session, task: str, *, bid: bool = False, seen_by: Sequence[Session] = ()) -> Claim:
    """Claim a task or bid for it, and wait until the session and those in `seen_by` see the claim."""
    (session.bid if bid else session.claim)(task)
    for other in (session, *seen_by):
        await eventually(other, lambda it: it.view.own_claims(task, session.node.identity))
    claim = own(session, task)
    assert claim is not None
    return claim
