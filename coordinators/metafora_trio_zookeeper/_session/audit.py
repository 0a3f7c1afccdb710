"""The audit: slowly lists one directory after another and compares each with the view.

Of claims it should never find a difference, because events come in order on one connection and are missed only when
that breaks. It exists because a view that has silently lost an event could leave a task unowned for ever.

Of tasks it may find one: from ZooKeeper 3.8.4 on, a server sends no events of a task that this node may not read, but
lists it all the same. Such a task is looked up and noted. It is no reason to drop the connection.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from functools import partial

import trio

from metafora_trio_zookeeper._connection import Connection, EventType, Reply, RequestError, Stat
from metafora_trio_zookeeper._layout import Layout

from .live_view import LiveView

__all__ = ["run_audit"]

_PERIOD = 5.0
"""Seconds between two directories. With 64 buckets of tasks and of claims, each is compared about every 11 minutes."""

_log = logging.getLogger("metafora_trio.zookeeper")


async def run_audit(connection: Connection, layout: Layout, live: LiveView, rng: random.Random) -> None:
    """Compare one directory after another until cancelled. On a difference, look the tasks up, or resync for claims."""
    directories = [(section, bucket) for section in (layout.tasks, layout.claims) for bucket in layout.buckets]
    while True:
        rng.shuffle(directories)
        for section, bucket in directories:
            await trio.sleep(_PERIOD)
            if live.current:
                path = f"{section}/{bucket}"
                connection.children(path, partial(_compare, connection, layout, live, section, bucket))


def _compare(
    connection: Connection, layout: Layout, live: LiveView, section: str, bucket: str, reply: Reply | RequestError
) -> None:
    """Compare a listing with the view. Every earlier event came before the reply, so the two must agree exactly."""
    if not isinstance(reply, Reply) or not live.current:
        return
    view = live.view
    if section == layout.tasks:
        listed = {task for name in reply.value if (task := layout.parse_task(bucket, name))}
        unsure = [task for task in listed if task not in view.tasks]
        if live.task_counts[bucket] + len(unsure) > len(listed):  # only then look through all tasks
            unsure += [task for task in view.tasks if layout.bucket(task) == bucket and task not in listed]
        if unsure:
            _log.warning("looking up %d tasks that came to or went from %s/%s unseen", len(unsure), section, bucket)
            connection.exists([layout.task_path(task) for task in unsure], partial(_note, layout, live, unsure))
        return
    claims = [claim for name in reply.value if (claim := layout.parse_claim(bucket, name))]
    if len(claims) != live.claim_counts[bucket] or not all(claim in view.queue(claim.task) for claim in claims):
        _log.error("the view differs from the listing of %s/%s; resyncing", section, bucket)
        connection.drop()


def _note(layout: Layout, live: LiveView, tasks: Sequence[str], reply: Reply | RequestError) -> None:
    """Note whether each task exists, as an event would. One that may not even be looked up does."""
    if not isinstance(reply, Reply) or not live.current:
        return
    for task, found in zip(tasks, reply.value, strict=True):
        if found is None:
            live.note_record(task, None)
        elif task not in live.view.tasks:
            live.on_event(EventType.CREATED, layout.task_path(task))
        if isinstance(found, Stat) and found.version:
            live.on_event(EventType.CHANGED, layout.task_path(task))
