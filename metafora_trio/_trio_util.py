"""The parts of trio_util used here, with types: trio_util has no py.typed, so everything from it would be `Any`."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["AsyncBool", "RepeatedEvent"]

if TYPE_CHECKING:

    class AsyncBool:
        """A flag that can be waited for, in either direction."""

        value: bool

        def __init__(self, value: bool = False) -> None: ...

        async def wait_value(self, value: bool) -> bool:
            """Wait until the flag has this value. A checkpoint, also when it already has."""
            ...

    class RepeatedEvent:
        """An event that happens again and again. To miss nothing, look at the state before each wait."""

        def set(self) -> None:
            """Wake every task that waits now."""

        async def wait(self) -> None:
            """Wait for the next `set`. A checkpoint."""

else:
    from trio_util import AsyncBool, RepeatedEvent
