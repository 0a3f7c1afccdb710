"""Barrier: the quorum writes with which a session joins and resyncs. What is read behind them never shows the past."""

from __future__ import annotations

from collections.abc import Callable

from metafora_trio import LayoutMismatch
from metafora_trio_zookeeper._connection import Check, Connection, Create, ErrorCode, Reply, RequestError
from metafora_trio_zookeeper._layout import Layout
from metafora_trio_zookeeper._replies import Burst, is_broken

from .heartbeat import Heartbeat

__all__ = ["Barrier"]


class Barrier:
    """One session's.

    Args:
        connection: the session's.
        layout: the namespace.
        path: the node's own znode.
        heartbeat: the session's.
        refused: called with the attempted action and the error, if the session cannot join.
        mismatch: called with the error, if the namespace is not what the session expects.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        path: str,
        heartbeat: Heartbeat,
        *,
        refused: Callable[[str, RequestError], None],
        mismatch: Callable[[LayoutMismatch], None],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._path = path
        self._heartbeat = heartbeat
        self._refused = refused
        self._mismatch = mismatch

    def join(self, burst: Burst, record: bytes) -> None:
        """Create the node's znode, and read the namespace's record behind that. The namespace may have been made again
        since it was looked at, and its generation must be known before a claim is parsed."""
        created, root = burst.slot(), burst.slot()

        def on_created(reply: Reply | RequestError) -> None:
            if isinstance(reply, RequestError) and reply.code is ErrorCode.NODE_EXISTS:
                # An earlier attempt of ours arrived and its reply was lost, since no other session has this mark.
                created(Reply(None, 0))
                return
            if isinstance(reply, RequestError) and not is_broken(reply):
                self._refused(f"creating {self._path}", reply)
            created(reply)

        def on_root(reply: Reply | RequestError) -> None:
            found = reply.value[0] if isinstance(reply, Reply) else None
            if isinstance(found, RequestError):
                self._refused(f"reading {self._layout.root}", found)
            elif found is not None:  # otherwise the heartbeat fails, since a node that exists has a namespace
                try:
                    self._layout.check_record(found.data)
                    self._layout.check_acl()
                except LayoutMismatch as error:
                    self._mismatch(error)
            root(reply)

        self._connection.transact([Create(self._path, record, ephemeral=True)], on_created)
        self._heartbeat.send(burst.slot())
        self._connection.read([self._layout.root], on_root)

    def resync(self, burst: Burst, *, over: bool) -> None:
        """Send a heartbeat. If the session is over, perhaps for a lack of its znode, its heartbeat may be refused; then
        another check is the barrier."""
        if over:
            self._connection.transact([Check(self._layout.root)], burst.slot())
            self._heartbeat.send()
        else:
            self._heartbeat.send(burst.slot())
