"""RunningTask: what a handler is given, and the Handler itself."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import trio

from metafora_trio._model.lease import Lease
from metafora_trio._model.state import Outcome, StopReason

__all__ = ["Handler", "RunningTask", "TaskLease"]


class TaskLease:
    """How long this node may still believe that the task is its own."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def remaining(self) -> float:
        """Seconds until the task's scope is cancelled unless the broker is heard again; never below 0."""
        return max(0.0, self._lease.cancel_at - trio.current_time())

    @property
    def end(self) -> float:
        """When nothing of the task may run any more, cleanup included, unless the broker is heard again: in Trio time,
        infinite with an embedded coordinator. For what Trio cannot cancel, such as processes of the system."""
        return self._lease.end

    def __repr__(self) -> str:
        return f"<TaskLease until {self._lease.cancel_at:.3f} (Trio time)>"


class RunningTask:
    """One run of a task on this node, as its handler sees it.

    Attributes:
        id: the task's id.
        props: its properties; read only.
        node: the identity of this node's session.
        token: the fencing token: a number that grows with every change of owner. Hand it to any store you write
            to, and have the store refuse lower ones: that stops a process that was frozen past its lease.
        stopping: set when the task is told to stop. With no `grace` its scope is cancelled in the same step. When the
            session is lost, or the node itself is cancelled, there is nothing but the cancellation.
        started: when the scope opened, in Trio time.
        lease: how long this node may still believe that the task is its own.
    """

    __slots__ = (
        "_cleanup_timeout",
        "_cleanups",
        "_lease",
        "_nursery",
        "_reason",
        "id",
        "node",
        "props",
        "started",
        "stopping",
        "token",
    )

    def __init__(
        self, *, id: str, props: Mapping[str, Any], node: str, token: int, lease: Lease, cleanup_timeout: float
    ) -> None:
        self.id: str = id
        self.props: Mapping[str, Any] = props
        self.node: str = node
        self.token: int = token
        self.stopping: trio.Event = trio.Event()
        self.started: float = trio.current_time()
        self._lease = lease
        self._cleanup_timeout = cleanup_timeout
        self._cleanups: dict[trio.CancelScope, None] = {}
        self._nursery: trio.Nursery | None = None
        self._reason: StopReason | None = None

    @property
    def lease(self) -> TaskLease:
        """How long this node may still believe that the task is its own."""
        return TaskLease(self._lease)

    @property
    def nursery(self) -> trio.Nursery:
        """The task's own nursery. The task runs until the handler and everything started here have ended."""
        if self._nursery is None:
            raise RuntimeError(f"task {self.id!r} has no open nursery: its scope is closed")
        return self._nursery

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the task must stop, None while it need not."""
        if self._reason is None and trio.current_time() >= self._lease.cancel_at:
            return StopReason.SESSION_LOST
        return self._reason

    @contextmanager
    def cleanup(self) -> Generator[trio.CancelScope]:
        """Shield an await from cancellation, to clean up: `with task.cleanup(): await connection.aclose()`.

        The shield ends when the lease does, or after the consumer's `cleanup_timeout`, whichever comes first:
        by then another node may run the task.
        """
        end = min(self._lease.end, trio.current_time() + self._cleanup_timeout)
        with trio.CancelScope(shield=True, deadline=end) as scope:
            self._cleanups[scope] = None
            try:
                yield scope
            finally:
                del self._cleanups[scope]

    def _lease_changed(self) -> None:
        """End shields that outlast a lease that was revoked."""
        for scope in self._cleanups:
            scope.deadline = min(scope.deadline, self._lease.end)

    def __repr__(self) -> str:
        reason = f" stopping ({self.stop_reason})" if self.stop_reason else ""
        return f"<RunningTask {self.id!r} on {self.node} token={self.token}{reason}>"


class Handler(Protocol):
    """The user's async function that executes a task.

    Returning None or `Outcome.DONE` completes the task, `Outcome.RELEASE` gives it back; an exception
    completes it as failed, and its traceback can be read by clients. This is also so while the task is
    stopping: a handler that winds down during its `grace` and wants to run on elsewhere returns `RELEASE`.
    """

    def __call__(self, task: RunningTask, /) -> Awaitable[Outcome | None]: ...
