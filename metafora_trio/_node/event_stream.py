"""EventStream: passes every event to the observers, which miss none, and to the subscribers, which may lag behind."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import trio

from metafora_trio.events import Event, Observer, ObserverFailed

from .log_observer import LogObserver

__all__ = ["EventStream"]


class EventStream:
    """Passes each event to every observer and every subscriber, in order.

    An observer that raises is removed, and the others get `ObserverFailed`. If the log is not among the others, the
    traceback goes to stderr. If an observer causes another event, all observers and subscribers get the current event
    first.

    A subscriber that lags by more than its buffer loses events, because a slow reader must never hold up a node. Lost
    events are counted.

    Attributes:
        dropped: the number of events that subscribers have lost.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.dropped: int = 0
        self._observers = list(observers)
        self._channels: list[trio.MemorySendChannel[Event]] = []
        self._waiting: deque[Event] = deque()
        self._emitting = False

    def emit(self, event: Event) -> None:
        """Pass an event on. Returns when all have received it or, if an observer is the caller, at once."""
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
            except (KeyboardInterrupt, trio.Cancelled):  # the first is meant for the program
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a user's observer raises, also SystemExit
                self._remove(observer, error, event.node)
        for channel in self._channels:
            try:
                channel.send_nowait(event)
            except trio.WouldBlock:
                self.dropped += 1
            except trio.BrokenResourceError:  # closed by its reader; `subscribe` will remove it
                pass

    def _remove(self, observer: Observer, error: BaseException, node: str) -> None:
        self._observers = [other for other in self._observers if other is not observer]
        name = _describe(observer)
        if not any(isinstance(other, LogObserver) for other in self._observers):
            _print_to_stderr(name, error)
        self._waiting.append(ObserverFailed(node, name, error))

    @contextmanager
    def subscribe(self, buffer: int) -> Generator[trio.MemoryReceiveChannel[Event]]:
        """Open a channel that receives all events from now on, as far as its buffer allows."""
        send, receive = trio.open_memory_channel[Event](buffer)
        self._channels.append(send)
        try:
            with receive:
                yield receive
        finally:
            self._channels.remove(send)
            send.close()


def _describe(observer: Observer) -> str:
    """Return an observer's repr, or the default one if its own raises."""
    try:
        return repr(observer)
    except (KeyboardInterrupt, trio.Cancelled):
        raise
    except BaseException:  # noqa: BLE001 - whatever a user's observer raises
        return object.__repr__(observer)


def _print_to_stderr(name: str, error: BaseException) -> None:
    """Report an observer that failed, without the log."""
    try:
        print(f"metafora: the observer {name} raised and was removed", file=sys.stderr)
        traceback.print_exception(error)
    except Exception:  # noqa: BLE001, S110 - stderr is closed: there is no place left to report it
        pass
