"""own_claim: creates a claim, for tests of sessions."""

from __future__ import annotations

from metafora_trio import Claim
from metafora_trio.contract import Session
from metafora_trio.testing.conformance import eventually


async def own_claim(session: Session, task: str) -> Claim:
    """Claim a task, and wait until the claim is in the view."""
    session.claim(task)
    await eventually(session, lambda it: it.view.own_claims(task, session.node.identity))
    return session.view.own_claims(task, session.node.identity)[0]
