"""Commands to a node, and the order in which they stand at the broker."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Command", "CommandName", "QueuedCommand"]


class CommandName(enum.StrEnum):
    """The commands a node knows."""

    FREEZE = "freeze"
    """Neither claim, bid nor give, until unfreeze."""
    UNFREEZE = "unfreeze"
    BALANCE = "balance"
    """Ask the balancer at once what to release and what to steal."""
    STOP_TASK = "stop_task"
    """Give back one task (parameter `task`); this node leaves it alone for a while."""
    DRAIN = "drain"
    """Leave politely: hand over everything, then end the session."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a node.

    Attributes:
        name: one of `CommandName`; a node reports and discards what it does not know.
        task: for `stop_task`, the task's id.
    """

    name: str
    task: str | None = None

    def encode(self) -> bytes:
        """As JSON, with Go Metafora's field names: `{"command", "parameters"}`."""
        record: dict[str, Any] = {"command": str(self.name)}
        if self.task is not None:
            record["parameters"] = {"task": self.task}
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Command:
        """What `encode` wrote. Raises `ValueError` when it is not a command."""
        record: Any = json.loads(encoded)
        if not isinstance(record, dict) or not isinstance(record.get("command"), str):
            raise ValueError("a command is a JSON object with the field 'command'")
        parameters = record.get("parameters") or {}
        task = parameters.get("task") if isinstance(parameters, dict) else None
        return cls(record["command"], task if isinstance(task, str) else None)


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """A command as it stands at the broker.

    Attributes:
        id: the broker's name of it.
        node: the identity it is addressed to.
        command: what to do; None when it cannot be read.
    """

    id: str
    node: str
    command: Command | None
