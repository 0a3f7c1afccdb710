"""LiveView: a ClusterView that follows ZooKeeper over one connection, through reconnects.

Why this is hard: watches end with each connection, and the next server may lag behind what was already seen. So each
connect sends one pipelined burst:

    add_watch...    from now on no event is missed
    the barrier     a quorum write: nothing read after it is older than anything seen before
    lists, reads    the present contents

Until everything has been answered on this connection, the old view stays unchanged and the live view is not `current`.
The new view is built separately: first from the lists, then from the events since the watches, in order. It does not
matter when after the watches a list was made. For each znode the last event decides, and a znode without an event is
as it was listed. Then the new view replaces the old one in a single step.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import trio

from metafora_trio.contract import (
    AsyncBool,
    ClaimAdded,
    ClaimRemoved,
    ClusterView,
    NodeAdded,
    NodeRemoved,
    TaskAdded,
    TaskDeleted,
    TaskRemoved,
)
from metafora_trio_zookeeper._connection import (
    Connection,
    ConnectionState,
    Done,
    ErrorCode,
    EventType,
    ReadResult,
    Reply,
    RequestError,
)
from metafora_trio_zookeeper._layout import Layout, is_tombstone, known
from metafora_trio_zookeeper._replies import Burst, is_broken

from .changed_tasks import ChangedTasks
from .in_flight import InFlight
from .lists import changed_of, list_names, names_of, read_many, results_of
from .node_record import check_readable, decode_node
from .pending_changes import PendingChanges
from .queued_commands import QueuedCommands
from .read_ahead import ReadAhead, Record
from .record_sizes import RecordSizes

__all__ = ["LiveView"]

_CHUNK = 500
"""Events to apply between two checkpoints: about 3 ms."""
_MOST_JITTER = 2.0
"""Seconds over which resyncs are spread, since a change of leader makes every node list at the same time."""


class LiveView(PendingChanges):
    """See the module.

    Args:
        connection: the connection to follow. Its owner passes states and events on to `on_state` and `on_event`. A
            client may replace it when its session has expired.
        layout: the namespace.
        in_flight: the requests of the session that owns this view. A client's has no identity; then commands are not
            followed.
        rng: for the jitter.
        sizes: how many task records to read at a time; for a session.

    Attributes:
        view: the cluster as last seen; a new object after each resync.
        queued_commands: the commands queued at the broker.
        records: the task records that are read ahead.
        changed_tasks: the tasks whose znode has changed and must be read.
        versions: the versions of the tasks that an operator has changed; 0 for all others without a tombstone.
        task_counts, claim_counts: the number of tasks and claims in the view by bucket; for the audit.
        deliveries: the number of events and replies so far, as a sign of life of the connection.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        in_flight: InFlight,
        rng: random.Random,
        sizes: RecordSizes | None = None,
    ) -> None:
        super().__init__()
        self.view = ClusterView()
        self.records = ReadAhead(
            self.read_tasks, self._on_record, sizes or RecordSizes(), lambda: self.connection.session_timeout
        )
        self.deliveries = 0
        self.connection = connection
        self._layout = layout
        self._in_flight = in_flight
        self.queued_commands = QueuedCommands(layout, in_flight.identity, self._read_one, self.touch_nodes)
        self.changed_tasks = ChangedTasks(self.read_tasks, self._on_changed)
        self.versions: dict[str, int] = {}
        self._rng = rng
        self.task_counts: Counter[str] = Counter()
        self.claim_counts: Counter[str] = Counter()
        self._epoch = 0
        self._synced = False
        self._building: ClusterView | None = None
        self._events: list[tuple[EventType, str]] = []
        self._current = AsyncBool()
        self._connected = AsyncBool()
        self._prefix = len(layout.root) + 1
        self._watched = [layout.nodes, layout.tasks, layout.claims]
        if in_flight.identity:
            self._watched.append(layout.node_commands)

    @property
    def current(self) -> bool:
        """True while the view may be acted on, because all of it comes from the present connection."""
        return self._current.value

    # ---- records of tasks

    def read_ahead(self, tasks: Iterable[str]) -> None:
        """Have the records of some tasks read. Call this only while the view is current."""
        for task in tasks:
            self.records.want(task)
        self.records.pump()

    def _on_record(self, task: str, record: Record) -> None:
        if not isinstance(record, RequestError):
            self.note_record(task, record)

    def _on_changed(self, task: str, record: ReadResult | None) -> bool:
        if not self.current and self._building is None:
            return False  # before the barrier, a server that lags could show the past
        self.note_record(task, record)
        return True

    def note_record(self, task: str, record: ReadResult | None) -> None:
        """Note what a task's record says: whether it exists, whether it has a tombstone, and its version."""
        view = self.view if self._building is None else self._building
        if record is None:
            # The event of its removal came before this reply, unless the server hides the events of what may not be
            # read. Without this, the node would claim and read the task over and over.
            if task in view.tasks:
                self._apply_task(view, EventType.DELETED, f"{self._layout.bucket(task)}/{task}")
        elif is_tombstone(record):
            if task in view.tasks and not view.deleted(task):
                view.apply(TaskDeleted(task))
                self.touch(task)
        elif record.version:
            self.versions[task] = record.version
        else:
            self.versions.pop(task, None)

    # ---- the connection

    def on_state(self, state: ConnectionState) -> None:
        """Follow the connection's state."""
        self._epoch += 1
        self._building = None
        self._events = []
        self._current.value = False
        if state is ConnectionState.CONNECTED:
            self._connected.value = True

    async def wait_connected(self) -> None:
        """Wait for a connect that no earlier call has returned for. A checkpoint."""
        await self._connected.wait_value(True)
        self._connected.value = False

    async def wait_current(self) -> None:
        """Wait until the view is current. A checkpoint."""
        while True:
            await self._current.wait_value(True)
            if self.current:  # it may have changed again before this task ran
                return

    def on_event(self, event: EventType, path: str) -> None:
        """Apply an event, or keep it for the view that is being built."""
        self.deliveries += 1
        if self._current.value:
            self._apply(self.view, event, path)
        else:
            self._events.append((event, path))

    # ---- resync

    async def sync(self, barrier: Callable[[Burst], None]) -> bool:
        """Resync: list everything on the present connection. Returns in the same step in which `current` becomes true,
        so that the caller can add to that step.

        Args:
            barrier: sends the quorum writes of the burst.

        Returns:
            False if the connection broke: call again after `wait_connected`.

        Raises:
            RequestError: a request was refused; trying again would not help.
            CoordinatorUnavailable: a session that joins may not read another node's record.
        """
        try:
            await self._sync(barrier)
        except RequestError as error:
            if is_broken(error):
                return False
            raise
        return True

    async def _sync(self, barrier: Callable[[Burst], None]) -> None:
        connection, layout = self.connection, self._layout
        epoch = self._epoch
        burst = Burst(self._count_delivery)
        for path in self._watched:
            connection.add_watch(path, burst.slot())
        barrier(burst)
        if connection.number > 1:
            await trio.sleep(self._rng.uniform(0, min(_MOST_JITTER, connection.session_timeout / 10)))
            self._check_epoch(epoch)
        nodes = list_names(connection, burst, layout.nodes)
        queued_commands = list_names(connection, burst, layout.node_commands) if self._in_flight.identity else None
        claims = [(bucket, list_names(connection, burst, f"{layout.claims}/{bucket}")) for bucket in layout.buckets]
        tasks = [(bucket, list_names(connection, burst, f"{layout.tasks}/{bucket}")) for bucket in layout.buckets]
        # Lists do not show tombstones. Look up the tasks that may be running here, and read those that may have one, to
        # miss none of theirs. (Reading more would take too long where records are large and the link is slow.)
        held = list(self.view.claims_of(self._in_flight.identity))
        connection.exists([layout.task_path(task) for task in held], looked_up := burst.slot())
        await burst.wait()

        identities = [name for name in names_of(nodes) if known(layout.parse_node(name), layout.nodes, name)]
        own_commands = self.queued_commands.relist(names_of(queued_commands) if queued_commands else [])
        burst = Burst(self._count_delivery)
        changed = changed_of(held, looked_up)
        records = read_many(connection, burst, map(layout.task_path, changed.deleted))
        node_records = read_many(connection, burst, map(layout.node_path, identities))
        command_records = read_many(connection, burst, map(layout.node_command_path, own_commands))
        await burst.wait()

        if self._in_flight.identity and not self._synced:
            paths = map(layout.node_path, identities)
            check_readable(dict(zip(paths, results_of(node_records), strict=True)))

        # Not in the callbacks, and one bucket at a time, because 100,000 names take most of a second.
        view = self._building = ClusterView()
        self.versions = changed.versions
        self.claim_counts.clear()
        self.task_counts.clear()
        for bucket, slot in claims:
            for name in names_of(slot):
                if claim := known(layout.parse_claim(bucket, name), layout.claims, name):
                    view.apply(ClaimAdded(claim))
                    self.claim_counts[bucket] += 1
            await self._checkpoint(epoch)
        for bucket, slot in tasks:
            for name in names_of(slot):
                if task := known(layout.parse_task(bucket, name), layout.tasks, name):
                    view.apply(TaskAdded(task))
                    self.task_counts[bucket] += 1
            await self._checkpoint(epoch)
        for task, record in zip(changed.deleted, results_of(records), strict=True):
            if isinstance(record, RequestError):
                changed.refused.append(task)
            else:
                self.note_record(task, record)
        for task in changed.refused:
            self.changed_tasks.refused(task)
        for identity, node_record in zip(identities, results_of(node_records), strict=True):
            self._note_node(view, identity, node_record)
        self.queued_commands.restart(own_commands, results_of(command_records))

        events, done = self._events, 0
        while done < len(events):
            for event, path in events[done : done + _CHUNK]:
                self._apply(view, event, path)
            done = min(done + _CHUNK, len(events))
            if done < len(events):
                await self._checkpoint(epoch)
        # There must be no await between applying the last events and the swap.
        self._check_epoch(epoch)
        # A task is removed together with its owner's claim. If the view saw the task removed but not the claim, that
        # event is older than the lists, which already show the task submitted again, with a new claim at the head.
        view.orphaned.clear()
        self.view, self._building, self._events = view, None, []
        self.records.clear()
        self._synced = True
        self._current.value = True
        self.touch_everything()

    def read_tasks(self, tasks: Iterable[str], done: Done) -> None:
        """Read the records of some tasks."""
        self._read_znodes([self._layout.task_path(task) for task in tasks], done)

    def _read_one(self, path: str, done: Done) -> None:
        self._read_znodes([path], done)

    def _read_znodes(self, paths: Sequence[str], done: Done) -> None:
        def counted(reply: Reply | RequestError) -> None:
            self._count_delivery()
            done(reply)

        self.connection.read(paths, counted)

    def _count_delivery(self) -> None:
        self.deliveries += 1

    def _check_epoch(self, epoch: int) -> None:
        if self._epoch != epoch:
            raise RequestError(ErrorCode.CONNECTION_LOSS)

    async def _checkpoint(self, epoch: int) -> None:
        await trio.lowlevel.checkpoint()
        self._check_epoch(epoch)

    # ---- one event

    def _apply(self, view: ClusterView, event: EventType, path: str) -> None:
        section, _, name = path[self._prefix :].partition("/")
        if section == "claims":
            self._apply_claim(view, event, name)
        elif section == "tasks":
            self._apply_task(view, event, name)
        elif section == "nodes":
            self._apply_node(view, event, name)
        elif section == "node_commands" and name:
            self.queued_commands.apply(event, name)

    def _apply_claim(self, view: ClusterView, event: EventType, path: str) -> None:
        bucket, _, name = path.partition("/")
        if not name:
            return
        claim = known(self._layout.parse_claim(bucket, name), self._layout.claims, name)
        if claim is None:
            return
        # `_in_flight` follows the live view only. It is rebuilt when the new view is swapped in.
        own = claim.node == self._in_flight.identity and view is self.view
        before = len(view.queue(claim.task))
        if event == EventType.CREATED:
            view.apply(ClaimAdded(claim))
            if own:
                self._in_flight.appeared(claim)
        elif event == EventType.DELETED:
            view.apply(ClaimRemoved(claim))
            if own:
                self._in_flight.gone(claim)
                self.records.unwant(claim.task)
        # Add the change in length, not 1: an event sent before the listing may repeat what the listing already showed.
        self.claim_counts[bucket] += len(view.queue(claim.task)) - before
        self.touch(claim.task)

    def _apply_task(self, view: ClusterView, event: EventType, path: str) -> None:
        bucket, _, name = path.partition("/")
        if not name:
            return
        task = known(self._layout.parse_task(bucket, name), self._layout.tasks, name)
        if task is None:
            return
        before = len(view.tasks)
        if event == EventType.CREATED:
            view.apply(TaskAdded(task))
        elif event == EventType.CHANGED:
            self.changed_tasks.add(task)
        else:
            view.apply(TaskRemoved(task))
            self.changed_tasks.forget(task)
            self.versions.pop(task, None)
        self.task_counts[bucket] += len(view.tasks) - before
        self.records.forget(task)
        self.touch(task)

    def _apply_node(self, view: ClusterView, event: EventType, name: str) -> None:
        identity = known(self._layout.parse_node(name), self._layout.nodes, name) if name else None
        if identity is None:
            return
        if event == EventType.DELETED:
            view.apply(NodeRemoved(identity))
            self.touch_nodes()
        else:
            self._read_one(self._layout.node_path(identity), lambda reply: self._on_node(identity, reply))

    def _on_node(self, identity: str, reply: Reply | RequestError) -> None:
        """Apply a node record just read. If the node has since gone, ignore it: its DELETED event is on its way."""
        if isinstance(reply, Reply) and (record := reply.value[0]) is not None:
            self._note_node(self.view if self._building is None else self._building, identity, record)
            self.touch_nodes()

    def _note_node(self, view: ClusterView, identity: str, record: ReadResult | RequestError | None) -> None:
        node = decode_node(identity, record)
        view.apply(NodeRemoved(identity) if node is None else NodeAdded(node))
