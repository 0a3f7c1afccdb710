"""SessionRun: one session of a consumer, from joining to its end, in a Trio task of its own.

It has its own task because a scope that ignores its cancellation keeps its session open. The session then goes on only
to hold the claims of such tasks, and the consumer joins again beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from metafora_trio._errors import CoordinatorUnavailable, SessionLost
from metafora_trio._model.node_info import NodeInfo
from metafora_trio.contract import Coordinator, Session
from metafora_trio.events import Event, SessionEnded

from .membership import Membership

__all__ = ["SessionRun"]

_TOLERANCE = 0.1
"""Seconds after the end of a lease until a scope that is still open counts as stuck. A process that was frozen past the
end needs a moment to cancel its tasks, and a lease may be revoked at once."""


class SessionRun:
    """Opens a session, runs its membership, and keeps the outcome.

    Args:
        coordinator: opens the session.
        node: what to announce.
        joined: called in the session with the session; returns the membership to run.
        left: called in the session with the membership when that has ended.
        emit: reports an event.

    Attributes:
        membership: the membership once the node has joined, otherwise None.
        error: why the node could not join or has lost the session; None until then, and if it has left.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        node: NodeInfo,
        joined: Callable[[Session], Membership],
        left: Callable[[Membership], None],
        emit: Callable[[Event], None],
    ) -> None:
        self.membership: Membership | None = None
        self.error: SessionLost | CoordinatorUnavailable | None = None
        self._coordinator = coordinator
        self._node = node
        self._joined = joined
        self._left = left
        self._emit = emit
        self._ending = trio.Event()
        self._over = trio.Event()

    @property
    def over(self) -> bool:
        """True once the session is closed and every scope opened in it, too."""
        return self._over.is_set()

    async def run(self) -> None:
        """Run the session from joining to its end. Sets `error` instead of raising the errors that it is for."""
        identity = ""
        try:
            async with self._coordinator.open_session(self._node) as session:
                identity = session.node.identity
                self.membership = self._joined(session)
                try:
                    await self.membership.run(ending=self._ending.set)
                finally:
                    self._left(self.membership)
        except (CoordinatorUnavailable, SessionLost) as error:
            self.error = error
        finally:
            if identity:
                self._emit(SessionEnded(identity, str(self.error or "")))
            self._ending.set()
            self._over.set()

    async def wait_parted(self) -> None:
        """Wait until the session is over or, if a scope does not close, until the lease has ended. A checkpoint."""
        await self._ending.wait()
        end = self.membership.session.lease.end if self.membership is not None else 0.0
        # Count from now at the earliest: if the event loop was blocked past the end, the scopes can close only now.
        with trio.move_on_at(max(end, trio.current_time()) + _TOLERANCE):
            await self._over.wait()
