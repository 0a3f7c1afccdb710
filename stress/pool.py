"""Processes that search, and end with the one that started them, however that ends."""

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
    """A pool of processes, waited for at the end. An exception of the body, Ctrl-C too, ends them at once."""
    # Not forked: a child would inherit whatever the parent has imported and drawn.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        try:
            yield pool
        except BaseException:
            for process in active_children():
                process.terminate()
            raise


def _prepare() -> None:
    """In each of the pool's processes, at first."""
    # A terminal sends Ctrl-C to all; what to do about it is the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    # A worker holds both ends of its queue, so it would wait for ever for work from a parent that was killed.
    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
