"""The error tree.

MetaforaError
├── InvalidTask              a task's id or properties break a rule (also a ValueError)
├── InvalidName              a node's name breaks a rule (also a ValueError)
├── InvalidRecord            a stored record cannot be read, or a value cannot be part of one (also a ValueError)
├── TaskExists               the task is already submitted, or still ending
├── TaskFinished             the task has ended; submit it with again=True
├── TaskNotFound             no such task
├── NodeNotFound             no such node
├── CoordinatorUnavailable   the broker cannot be reached, or refuses this process
│   ├── NamespaceNotFound    nothing was ever submitted there, and no node has joined
│   ├── LayoutMismatch       the namespace was made by another version, or with other settings
│   └── BrokerTooOld         the broker lacks an operation that the protocol needs
└── SessionLost              this node's session is over; it no longer holds its claims
"""

from __future__ import annotations

__all__ = [
    "BrokerTooOld",
    "CoordinatorUnavailable",
    "InvalidName",
    "InvalidRecord",
    "InvalidTask",
    "LayoutMismatch",
    "MetaforaError",
    "NamespaceNotFound",
    "NodeNotFound",
    "SessionLost",
    "TaskExists",
    "TaskFinished",
    "TaskNotFound",
]


class MetaforaError(Exception):
    """Base class of all Metafora errors."""


class InvalidTask(MetaforaError, ValueError):
    """A task's id or properties break a rule. Raised before anything is written."""


class InvalidName(MetaforaError, ValueError):
    """A node's name breaks a rule. Raised before anything is written."""


class InvalidRecord(MetaforaError, ValueError):
    """A record that the broker stores cannot be read, or a value breaks a rule for what such a record may hold."""


class TaskExists(MetaforaError):
    """A task with this id is already in the cluster, or is still ending after a delete."""


class TaskFinished(MetaforaError):
    """A task with this id has ended. Submit it with `again=True` to run it again."""


class TaskNotFound(MetaforaError):
    """There is no task with this id."""


class NodeNotFound(MetaforaError):
    """There is no live node with this name or identity in the cluster."""


class CoordinatorUnavailable(MetaforaError):
    """The broker cannot be reached in time, or refuses this process. Trying again later may help."""


class NamespaceNotFound(CoordinatorUnavailable):
    """The namespace does not exist. The first node that joins, or the first submit, creates it; reading does not."""


class LayoutMismatch(CoordinatorUnavailable):
    """The namespace was made by another version of Metafora, or with other settings."""


class BrokerTooOld(CoordinatorUnavailable):
    """The broker lacks an operation that the protocol needs."""


class SessionLost(MetaforaError):
    """This node's session has ended, or can no longer be trusted."""
