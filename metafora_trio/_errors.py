"""The error tree.

MetaforaError
├── InvalidTask              a task's id or properties break a rule (also a ValueError)
├── InvalidName              a node's name breaks a rule (also a ValueError)
├── TaskExists               submitted already, or still ending
├── TaskFinished             the id has ended; submit with again=True
├── TaskNotFound             no such task
├── NodeNotFound             no such node
├── CoordinatorUnavailable   the broker cannot be reached, or refuses us
│   ├── LayoutMismatch       the namespace was made by another version, or with other settings
│   └── BrokerTooOld         the broker lacks what the protocol needs
└── SessionLost              this node's membership is over; its claims are no longer its own
"""

from __future__ import annotations

__all__ = [
    "BrokerTooOld",
    "CoordinatorUnavailable",
    "InvalidName",
    "InvalidTask",
    "LayoutMismatch",
    "MetaforaError",
    "NodeNotFound",
    "SessionLost",
    "TaskExists",
    "TaskFinished",
    "TaskNotFound",
]


class MetaforaError(Exception):
    """Base of every error that is Metafora's own."""


class InvalidTask(MetaforaError, ValueError):
    """A task's id or properties break a rule. Raised before anything is written."""


class InvalidName(MetaforaError, ValueError):
    """A node's name breaks a rule. Raised before anything is written."""


class TaskExists(MetaforaError):
    """A task of this id is in the cluster already, or is still ending after a delete."""


class TaskFinished(MetaforaError):
    """A task of this id has ended. Submit it with `again=True` to run it once more."""


class TaskNotFound(MetaforaError):
    """No task of this id is known."""


class NodeNotFound(MetaforaError):
    """No live node of this name is in the cluster."""


class CoordinatorUnavailable(MetaforaError):
    """The broker cannot be reached in time, or refuses us. Trying again later may help."""


class LayoutMismatch(CoordinatorUnavailable):
    """The namespace was made by another version of Metafora, or with other settings."""


class BrokerTooOld(CoordinatorUnavailable):
    """The broker lacks an operation that the protocol needs."""


class SessionLost(MetaforaError):
    """This node's membership has ended, or can no longer be trusted to go on."""
