"""Orders: the commands to this node that stand at the broker, carried out once each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metafora_trio._model.command import Command, CommandName
from metafora_trio._model.reconcile import RoomState
from metafora_trio.events import OrderDone, OrderRejected

if TYPE_CHECKING:
    from .membership import Membership

__all__ = ["Orders"]


class Orders:
    """Carries out what the session finds; what it does not know, or cannot read, is reported and discarded."""

    def __init__(self, membership: Membership) -> None:
        self._m = membership
        self._done: set[str] = set()  # an order stays in sight until the broker has discarded it

    def carry_out(self) -> None:
        """Carry out every order that is new."""
        m = self._m
        for order in m.session.orders():
            if order.id not in self._done:
                self._done.add(order.id)
                self._carry_out(order.command)
            m.session.discard(order)  # also one done before, whose removal a disconnection has swallowed

    def _carry_out(self, command: Command | None) -> None:
        m = self._m
        if command is None:
            m.consumer.emit(OrderRejected(m.me, "?", "it cannot be read"))
        elif (why := self._obey(command)) is not None:
            m.consumer.emit(OrderRejected(m.me, str(command.name), why))
        else:
            m.consumer.emit(OrderDone(m.me, str(command.name), command.task))

    def _obey(self, command: Command) -> str | None:
        """Carry out a command, or say why not."""
        m = self._m
        match command.name:
            case CommandName.FREEZE | CommandName.UNFREEZE:
                m.consumer.set_frozen(command.name == CommandName.FREEZE)
            case CommandName.BALANCE:
                m.planner.balance()
            case CommandName.DRAIN:
                m.consumer.start_draining()
            case CommandName.STOP_TASK:
                room = m.rooms.get(command.task or "")
                if room is None or room.state is not RoomState.RUNNING:
                    return f"task {command.task!r} does not run here"
                m.give_back(room)
            case _:
                return "it is unknown"
        return None
