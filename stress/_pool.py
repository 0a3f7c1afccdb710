"""Processes that search, and end with the one that started them, however that ends."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process

__all__ = ["open_pool"]


def open_pool(processes: int) -> ProcessPoolExecutor:
    """A pool of processes. Not forked: a child would inherit whatever the parent has imported and drawn."""
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A worker holds both ends of its queue, so it would wait for ever for work from a parent that was killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
