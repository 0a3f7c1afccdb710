"""EventStream: brings every event to the observers, which miss none, and to the subscribers, which may lag behind."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import trio

from metafora_trio.events import Event, Observer, ObserverFailed

__all__ = ["EventStream"]


class EventStream:
    """Hands each event to every observer and every subscriber, in order.

    An observer that raises is removed, and the others get `ObserverFailed`; where there are no others, the traceback
    goes to stderr. An event that an observer causes comes after the present one, for everyone.

    A subscriber that lags more than its buffer loses events, which are counted: a slow reader must never hold up a
    node.

    Attributes:
        dropped: how many events subscribers have lost.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.dropped: int = 0
        self._observers = list(observers)
        self._channels: list[trio.MemorySendChannel[Event]] = []
        self._waiting: deque[Event] = deque()
        self._emitting = False

    def emit(self, event: Event) -> None:
        """Hand out an event. Returns when everyone has it, unless an observer is the caller."""
        self._waiting.append(event)
        if self._emitting:
            return
        self._emitting = True
        try:
            while self._waiting:
                self._hand_out(self._waiting.popleft())
        finally:
            self._emitting = False

    def _hand_out(self, event: Event) -> None:
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001 - whatever a user's observer raises
                self._remove(observer, error, event.node)
        for channel in self._channels:
            try:
                channel.send_nowait(event)
            except trio.WouldBlock:
                self.dropped += 1
            except trio.BrokenResourceError:  # closed by its reader; `subscribe` is about to remove it
                pass

    def _remove(self, observer: Observer, error: Exception, node: str) -> None:
        self._observers.remove(observer)
        if not self._observers:
            print(f"metafora: the observer {observer!r} raised, and is removed", file=sys.stderr)
            traceback.print_exception(error)
        self._waiting.append(ObserverFailed(node, repr(observer), error))

    @contextmanager
    def subscribe(self, buffer: int) -> Generator[trio.MemoryReceiveChannel[Event]]:
        """Open a channel of the events from now on."""
        send, receive = trio.open_memory_channel[Event](buffer)
        self._channels.append(send)
        try:
            with receive:
                yield receive
        finally:
            self._channels.remove(send)
            send.close()
