"""MissingOwners: reports tasks that are claimed by a node that is not there, so that nobody runs them."""

from __future__ import annotations

from collections.abc import Callable

import trio

from metafora_trio.contract import Session
from metafora_trio.events import Event, OwnerMissing

from .notices import Notices

__all__ = ["MissingOwners"]

_ABSENCE = 2
"""An owner is reported once it has been missing for the session timeout multiplied by this."""
_SHOWN = 3


class MissingOwners:
    """Looks from time to time for owners that are no nodes. The broker removes a claim with its session, so it is a
    mistake of a human or of the broker if one stays. Only the first node by name reports it.

    Args:
        session: its view shows owners and nodes.
        notices: what people should know.
        emit: reports an event.
    """

    def __init__(self, session: Session, notices: Notices, emit: Callable[[Event], None]) -> None:
        self._session = session
        self._me = session.node.identity
        self._notices = notices
        self._emit = emit
        self._missing: dict[str, float] = {}
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await trio.sleep(self._session.session_timeout / 2)
            if self._session.current:
                self._look(trio.current_time())

    def _look(self, now: float) -> None:
        view = self._session.view
        self._missing = {owner: self._missing.get(owner, now) for owner in view.owners() if owner not in view.nodes}
        late = {it for it, since in self._missing.items() if now - since >= _ABSENCE * self._session.session_timeout}
        if min(view.nodes, default=self._me) != self._me:
            late = set()
        for owner in self._reported - late:
            self._notices.clear(f"owner {owner}")
        new = late - self._reported
        self._reported = late
        for owner in sorted(late):
            tasks = sorted(view.owned_by(owner))
            more = f" and {len(tasks) - _SHOWN} more" if len(tasks) > _SHOWN else ""
            shown = ", ".join(tasks[:_SHOWN])
            self._notices.report(f"owner {owner}", f"claimed by {owner}, which is not a node: {shown}{more}")
            if owner in new:
                self._emit(OwnerMissing(self._me, owner, tuple(tasks)))
