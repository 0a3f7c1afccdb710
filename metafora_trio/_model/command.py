"""Commands to a node, as a client sends them and as the broker queues them."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Command", "CommandName", "QueuedCommand"]


class CommandName(enum.StrEnum):
    """The commands a node knows."""

    FREEZE = "freeze"
    """Claim nothing, bid for nothing and hand nothing over until unfreeze."""
    UNFREEZE = "unfreeze"
    BALANCE = "balance"
    """Plan at once: ask the balancer which tasks to release and which to steal."""
    STOP_TASK = "stop_task"
    """Stop one task (parameter `task`) and give it back; this node does not take it again for a while."""
    DRAIN = "drain"
    """Leave gracefully: hand over every task, then end the session."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a node.

    Attributes:
        name: one of `CommandName`; a node reports and discards a command that it does not know.
        task: the task's id, for `stop_task`.
    """

    name: str
    task: str | None = None

    def encode(self) -> bytes:
        """Encode as JSON with Go Metafora's field names: `{"command", "parameters"}`."""
        record: dict[str, Any] = {"command": str(self.name)}
        if self.task is not None:
            record["parameters"] = {"task": self.task}
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Command:
        """Decode the output of `encode`.

        Raises:
            ValueError: it is not a command.
        """
        record: Any = json.loads(encoded)
        if not isinstance(record, dict) or not isinstance(record.get("command"), str):
            raise ValueError("a command must be a JSON object with the field 'command'")
        parameters = record.get("parameters") or {}
        task = parameters.get("task") if isinstance(parameters, dict) else None
        return cls(record["command"], task if isinstance(task, str) else None)


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """A command in a node's queue at the broker.

    Attributes:
        id: the broker's name for it.
        node: the identity of the session it is addressed to.
        command: the command, or None if it cannot be read.
    """

    id: str
    node: str
    command: Command | None
