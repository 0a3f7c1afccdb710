"""Commands to a node, as a client sends them and as the broker queues them."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

from metafora_trio._errors import InvalidRecord, InvalidTask

from .json_record import JsonRecord, is_text, shorten
from .task import check_task_id

__all__ = ["Command", "CommandName", "QueuedCommand"]

_MAX_BYTES = 16 * 1024
_MAX_NAME = 128


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

    Raises:
        InvalidRecord: the name is not a string of 1 to 128 characters.
        InvalidTask: `task` is not a task's id.
    """

    name: str
    task: str | None = None

    def __post_init__(self) -> None:
        if not is_text(self.name, most=_MAX_NAME):
            raise InvalidRecord(f"a command's name must have 1 to {_MAX_NAME} characters: {shorten(self.name)}")
        if self.task is not None:
            check_task_id(self.task)

    def encode(self) -> bytes:
        """Encode as JSON with Go Metafora's field names: `{"command", "parameters"}`."""
        record: dict[str, Any] = {"command": str(self.name)}
        if self.task is not None:
            record["parameters"] = {"task": self.task}
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Command:
        """Decode the output of `encode`. Parameters that are not understood are left out: the node reports them.

        Raises:
            InvalidRecord: it is not a command.
        """
        record = JsonRecord(encoded, max_bytes=_MAX_BYTES)
        name, parameters = record.text("command", ""), record.get("parameters")
        try:
            return cls(name, parameters.get("task") if isinstance(parameters, dict) else None)
        except InvalidTask:
            return cls(name)


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
