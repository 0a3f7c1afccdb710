"""Upkeep: removes what belongs to no session: commands to nodes that are gone, and claims that somebody made by hand.

Only the first node by name does so. Otherwise every node would.

A claim is always ephemeral, so ZooKeeper removes it with its session. One that is persistent belongs to no session: it
was made by hand, and without this its task would never run. One that is ephemeral is never touched, even if its node's
znode is missing, because its session may be alive. (That session notices at its next heartbeat, and ends itself.)
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial

import trio

from metafora_trio import Claim
from metafora_trio_zookeeper._connection import Connection, ReadResult, Reply, RequestError
from metafora_trio_zookeeper._layout import MAX_OPS, Layout

from .live_view import LiveView
from .writes import Writes

__all__ = ["Upkeep"]

_UNDELIVERABLE_FRACTION = 4
"""A command is undeliverable once its addressee has been missing for the session timeout divided by this."""
_ABSENCE = 2
"""The claims of a node are looked at once it has been missing for the session timeout multiplied by this."""

_log = logging.getLogger("metafora_trio.zookeeper")


class Upkeep:
    """One session's part in it.

    Args:
        connection: reads the claims.
        layout: the namespace.
        live: shows commands, claims and nodes.
        writes: removes things.
        me: the session's identity.
        session_timeout: returns it, in seconds.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        live: LiveView,
        writes: Writes,
        me: str,
        session_timeout: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._live = live
        self._writes = writes
        self._me = me
        self._session_timeout = session_timeout
        self._missing: dict[str, float] = {}

    async def run(self) -> None:
        """Look from time to time, until cancelled."""
        await self._live.wait_current()
        while True:
            patience = self._session_timeout() / _UNDELIVERABLE_FRACTION
            await trio.sleep(patience)
            if self._live.current and min(self._live.view.nodes, default="") == self._me:
                self._remove_commands(trio.current_time() - patience)
                self._look_at_claims(trio.current_time())

    def _remove_commands(self, seen_before: float) -> None:
        nodes = self._live.view.nodes
        for name, seen in list(self._live.queued_commands.others.items()):
            queued = self._layout.parse_node_command(name)
            if queued is not None and queued[0] not in nodes and seen <= seen_before:
                self._writes.remove_command(name)

    def _look_at_claims(self, now: float) -> None:
        view = self._live.view
        self._missing = {it: self._missing.get(it, now) for it in view.claimants() if it not in view.nodes}
        for identity, since in self._missing.items():
            if now - since >= _ABSENCE * self._session_timeout():
                self._missing[identity] = now  # look again after as long a time
                claims = itertools.chain.from_iterable(view.claims_of(identity).values())
                while chunk := list(itertools.islice(claims, MAX_OPS)):
                    paths = [self._layout.claim_path(claim) for claim in chunk]
                    self._connection.read(paths, partial(self._on_read, chunk))

    def _on_read(self, claims: list[Claim], reply: Reply | RequestError) -> None:
        if isinstance(reply, RequestError):
            return  # it is tried again
        for claim, record in zip(claims, reply.value, strict=True):
            if isinstance(record, ReadResult) and record.ephemeral_owner == 0:
                _log.warning("removing a claim for task %r that belongs to no session: %s", claim.task, claim)
                self._writes.remove_stray(claim)
