"""Commands: the commands to this node that stand at the broker, carried out once each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metafora_trio._model.command import Command, CommandName
from metafora_trio._model.reconcile import RunState
from metafora_trio.events import CommandDone, CommandRejected

if TYPE_CHECKING:
    from .membership import Membership

__all__ = ["Commands"]


class Commands:
    """Carries out what the session finds; what it does not know, or cannot read, is reported and discarded."""

    def __init__(self, membership: Membership) -> None:
        self._m = membership
        self._done: set[str] = set()  # a command stays in sight until the broker has discarded it

    def carry_out(self) -> None:
        """Carry out every order that is new."""
        m = self._m
        for queued in m.session.queued_commands():
            if queued.id not in self._done:
                self._done.add(queued.id)
                self._carry_out(queued.command)
            m.session.discard(queued)  # also one done before, whose removal a disconnection has swallowed

    def _carry_out(self, command: Command | None) -> None:
        m = self._m
        if command is None:
            m.consumer.emit(CommandRejected(m.me, "?", "it cannot be read"))
        elif (why := self._obey(command)) is not None:
            m.consumer.emit(CommandRejected(m.me, str(command.name), why))
        else:
            m.consumer.emit(CommandDone(m.me, str(command.name), command.task))

    def _obey(self, command: Command) -> str | None:
        """Carry out a command, or say why not."""
        m = self._m
        match command.name:
            case CommandName.FREEZE:
                m.consumer.freeze()
            case CommandName.UNFREEZE:
                m.consumer.unfreeze()
            case CommandName.BALANCE:
                m.planner.balance()
            case CommandName.DRAIN:
                m.consumer.start_draining()
            case CommandName.STOP_TASK:
                run = m.runs.get(command.task or "")
                if run is None or run.state is not RunState.RUNNING:
                    return f"task {command.task!r} does not run here"
                m.give_back(run)
            case _:
                return "it is unknown"
        return None
