"""Commands: carries out each command that was sent to this node, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from metafora_trio._model.command import Command, CommandName
from metafora_trio.contract import Session
from metafora_trio.events import CommandDone, CommandRejected, Event

__all__ = ["Commands", "NodeControl"]


class NodeControl(Protocol):
    """The consumer, as commands use it. It outlasts the session."""

    def freeze(self) -> None: ...

    def unfreeze(self) -> None: ...

    def start_draining(self) -> None: ...


class Commands:
    """Carries out the session's queued commands. Reports a command that is unknown, unreadable or impossible.

    Args:
        session: holds the commands.
        control: freezes and drains the node.
        balance: makes the node plan at once.
        give_back: stops a task and gives it to any node; returns whether the task was running here.
        emit: reports an event.
    """

    def __init__(
        self,
        session: Session,
        control: NodeControl,
        *,
        balance: Callable[[], None],
        give_back: Callable[[str], bool],
        emit: Callable[[Event], None],
    ) -> None:
        self._session = session
        self._control = control
        self._balance = balance
        self._give_back = give_back
        self._emit = emit
        self._done: set[str] = set()  # a command stays queued until the broker has discarded it

    def carry_out(self) -> None:
        """Carry out every new command, and discard all of them."""
        all_queued = self._session.queued_commands()
        self._done.intersection_update([queued.id for queued in all_queued])
        for queued in all_queued:
            if queued.id not in self._done:
                self._done.add(queued.id)
                self._carry_out(queued.command)
            self._session.discard(queued)  # even if already done: its removal may have been lost in a disconnection

    def _carry_out(self, command: Command | None) -> None:
        me = self._session.node.identity
        if command is None:
            self._emit(CommandRejected(me, "?", "it cannot be read"))
        elif (why := self._apply(command)) is not None:
            self._emit(CommandRejected(me, str(command.name), why))
        else:
            self._emit(CommandDone(me, str(command.name), command.task))

    def _apply(self, command: Command) -> str | None:
        """Carry out a command. Returns None, or the reason why it was rejected."""
        match command.name:
            case CommandName.FREEZE:
                self._control.freeze()
            case CommandName.UNFREEZE:
                self._control.unfreeze()
            case CommandName.BALANCE:
                self._balance()
            case CommandName.DRAIN:
                self._control.start_draining()
            case CommandName.STOP_TASK:
                if not self._give_back(command.task or ""):
                    return f"task {command.task!r} is not running here"
            case _:
                return "it is unknown"
        return None
