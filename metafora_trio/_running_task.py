"""RunningTask: the argument of a handler. Also the Handler protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import trio

from metafora_trio._model.lease import Lease
from metafora_trio._model.state import Outcome, StopReason

__all__ = ["Handler", "RunControl", "RunningTask", "TaskLease"]


class TaskLease:
    """The time for which this node may still believe that it owns the task."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def remaining(self) -> float:
        """Return the seconds until the task's scope is cancelled unless the broker answers again; never below 0."""
        return max(0.0, self._lease.cancel_at - trio.current_time())

    @property
    def end(self) -> float:
        """The time by which the task must have stopped, cleanup included, unless the broker answers again.

        In Trio time; infinite with an embedded coordinator. Use it to stop anything that Trio cannot cancel, such as
        operating system processes.
        """
        return self._lease.end

    def __repr__(self) -> str:
        return f"<TaskLease until {self._lease.cancel_at:.3f} (Trio time)>"


class RunControl:
    """The part of a run that the node changes; `RunningTask` shows it to the handler.

    Attributes:
        lease: the session's lease.
        stopping: set when the task is told to stop.
        nursery: the task's nursery while its scope is open, otherwise None.
        reason: why the task was told to stop; None until then.
    """

    __slots__ = ("_cleanup_timeout", "lease", "nursery", "reason", "stopping")

    def __init__(self, lease: Lease, cleanup_timeout: float) -> None:
        self.lease: Lease = lease
        self.stopping: trio.Event = trio.Event()
        self.nursery: trio.Nursery | None = None
        self.reason: StopReason | None = None
        self._cleanup_timeout = cleanup_timeout

    @property
    def stop_reason(self) -> StopReason | None:
        """The reason why the task must stop, or None if it need not. An expired lease is a reason by itself."""
        if self.reason is None and trio.current_time() >= self.lease.cancel_at:
            return StopReason.SESSION_LOST
        return self.reason

    @contextmanager
    def shield(self) -> Generator[trio.CancelScope]:
        """Shield the body from cancellation until the lease ends or the cleanup timeout has passed.

        The deadline moves with the lease: later if the lease is renewed, and earlier if it is revoked. A deadline that
        the body has set stays the latest.
        """
        lease, most = self.lease, trio.current_time() + self._cleanup_timeout
        with trio.CancelScope(shield=True, deadline=min(lease.end, most)) as scope:
            ours = scope.deadline

            def follow() -> None:
                nonlocal most, ours
                if scope.deadline != ours:
                    most = min(most, scope.deadline)
                ours = scope.deadline = min(lease.end, most)

            lease.follow(follow)
            try:
                yield scope
            finally:
                lease.unfollow(follow)


class RunningTask:
    """One run of a task on this node, as its handler sees it.

    Attributes:
        id: the task's id.
        props: the task's properties; read only.
        node: the identity of this node's session.
        token: the fencing token, a number that grows with every change of owner. Pass it to any store you write to,
            and have the store refuse lower ones. That stops the writes of a process that was frozen past its lease.
        started: when the scope opened, in Trio time.
    """

    __slots__ = ("_control", "id", "node", "props", "started", "token")

    def __init__(self, *, id: str, props: Mapping[str, Any], node: str, token: int, control: RunControl) -> None:
        self.id: str = id
        self.props: Mapping[str, Any] = props
        self.node: str = node
        self.token: int = token
        self.started: float = trio.current_time()
        self._control = control

    @property
    def lease(self) -> TaskLease:
        """The time for which this node may still believe that it owns the task."""
        return TaskLease(self._control.lease)

    @property
    def stopping(self) -> trio.Event:
        """An event set when the task is told to stop. Without `grace`, its scope is cancelled in the same step.

        The event is not set if the session is lost or the node itself is cancelled; then the task is only cancelled.
        """
        return self._control.stopping

    @property
    def nursery(self) -> trio.Nursery:
        """The task's own nursery. The task runs until the handler and everything started in the nursery have ended.

        Raises:
            RuntimeError: the task's scope has closed.
        """
        nursery = self._control.nursery
        if nursery is None:
            raise RuntimeError(f"task {self.id!r} has no open nursery: its scope is closed")
        return nursery

    @property
    def stop_reason(self) -> StopReason | None:
        """The reason why the task must stop, or None if it need not."""
        return self._control.stop_reason

    @contextmanager
    def cleanup(self) -> Generator[trio.CancelScope]:
        """Shield an await from cancellation, to clean up: `with task.cleanup(): await connection.aclose()`.

        The shield ends with the lease, since another node may run the task from then on, or after the consumer's
        `cleanup_timeout`, whichever comes first. While the session is alive, the lease is renewed, and the shield with
        it. To end it earlier, set the deadline of the scope.
        """
        with self._control.shield() as scope:
            yield scope

    def __repr__(self) -> str:
        reason = f" stopping ({self.stop_reason})" if self.stop_reason else ""
        return f"<RunningTask {self.id!r} on {self.node} token={self.token}{reason}>"


class Handler(Protocol):
    """The user's async function that executes a task.

    Returning None or `Outcome.DONE` completes the task; returning `Outcome.RELEASE` gives it back. An exception ends
    the task as failed, and clients can read its traceback. This includes `SystemExit` and every other exception but
    `KeyboardInterrupt`, and a handler that is not async. The same is true while the task is stopping: a handler that
    winds down during its `grace` must return `RELEASE` if the task is to continue elsewhere.
    """

    def __call__(self, task: RunningTask, /) -> Awaitable[Outcome | None]: ...
