"""The settings that every command shares: the cluster, the form of the output, and the way into Trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ._exits import ExitCode, Failure

if TYPE_CHECKING:
    import trio

    from metafora_trio import Client, Coordinator

__all__ = ["App"]

T = TypeVar("T")


@dataclass(slots=True)
class App:
    """The settings of one run of the command.

    Attributes:
        url: the cluster, None if none was named.
        output: "table" or "json".
        verbose: how often `-v` was given.
        given: a coordinator to use whatever the URL says, for tests.
        clock: Trio's clock, for tests; None for the system's.
    """

    url: str | None = None
    output: str = "table"
    verbose: int = 0
    given: Coordinator | None = None
    clock: trio.abc.Clock | None = None

    @property
    def json(self) -> bool:
        """True if data are printed as JSON."""
        return self.output == "json"

    def coordinator(self) -> Coordinator:
        """Make the coordinator of the cluster that the user has named.

        Raises:
            Failure: none was named, its scheme is unknown, or a package that it needs is not installed.
        """
        if self.given is not None:
            return self.given
        if self.url is None:
            hint = "export METAFORA_URL=zk://127.0.0.1:2181/metafora, or see `metafora demo`, which needs none"
            raise Failure("no cluster named: give --url or set METAFORA_URL", ExitCode.USAGE, hint)
        from ._coordinators import coordinator_from_url

        return coordinator_from_url(self.url)

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Run `body` in Trio. Ctrl-C ends it at a checkpoint, with `KeyboardInterrupt`."""
        import trio

        return trio.run(body, clock=self.clock, restrict_keyboard_interrupt_to_checkpoints=True)

    def with_client(self, body: Callable[[Client], Awaitable[T]]) -> T:
        """Run `body` in Trio, with a client of the cluster."""
        from metafora_trio import open_client

        coordinator = self.coordinator()

        async def main() -> T:
            async with open_client(coordinator) as client:
                return await body(client)

        return self.run(main)
