"""A pool of processes for searches. The processes end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process

__all__ = ["open_pool"]


@contextmanager
def open_pool(processes: int) -> Generator[ProcessPoolExecutor]:
    """Open a pool of processes. Wait for them at the end; if the body raises (also on Ctrl-C), end them at once."""
    # Spawn, not fork: a forked child would inherit the parent's modules and random state.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        try:
            yield pool
        except BaseException:
            for process in active_children():
                process.terminate()
            raise


def _prepare() -> None:
    """Prepare one process of the pool."""
    # A terminal sends Ctrl-C to every process; only the parent acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    # A worker holds both ends of its queue. If the parent were killed, the worker would wait for work forever.
    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
