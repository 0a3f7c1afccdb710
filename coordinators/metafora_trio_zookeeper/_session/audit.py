"""The audit: slowly lists one directory after another and compares each with the view.

It should never find a difference, because events come in order on one connection and are missed only when that breaks.
It exists because a view that has silently lost an event could leave a task unowned for ever.
"""

from __future__ import annotations

import logging
import random
from functools import partial

import trio

from metafora_trio_zookeeper._connection import Connection, Reply, RequestError
from metafora_trio_zookeeper._layout import Layout

from .live_view import LiveView

__all__ = ["run_audit"]

_PERIOD = 5.0
"""Seconds between two directories. With 64 buckets of tasks and of claims, each is compared about every 11 minutes."""

_log = logging.getLogger("metafora_trio.zookeeper")


async def run_audit(connection: Connection, layout: Layout, live: LiveView, rng: random.Random) -> None:
    """Compare one directory after another until cancelled; resync on a difference."""
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
        same = len(listed) == live.task_counts[bucket] and listed <= view.tasks.keys()
    else:
        claims = [claim for name in reply.value if (claim := layout.parse_claim(bucket, name))]
        same = len(claims) == live.claim_counts[bucket] and all(claim in view.queue(claim.task) for claim in claims)
    if not same:
        _log.error("the view differs from the listing of %s/%s; resyncing", section, bucket)
        connection.drop()
