"""Mutant: a deliberate bug in the library, to check that the tests notice it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

__all__ = ["Change", "Mutant", "mutant"]

Change = tuple[object, str, object]
"""An object, the name of one of its attributes, and the replacement for that attribute."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule of the protocol, switched off by a few small changes to the code that keeps it.

    Attributes:
        name: the bug, in a few words with hyphens.
        rule: the rule that it breaks.
        source: the section of docs/design.md that contains the rule.
        changes: makes the changes to the right code; called for each patching.
    """

    name: str
    rule: str
    source: str
    changes: Callable[[], Iterable[Change]]

    @contextmanager
    def patch(self) -> Generator[None]:
        """Put the bug into this process while the body runs."""
        with ExitStack() as patches:
            for owner, name, wrong in self.changes():
                patches.enter_context(mock.patch.object(owner, name, wrong))
            yield

    def __str__(self) -> str:
        return self.name


def mutant(*, rule: str, source: str) -> Callable[[Callable[[], Iterable[Change]]], Mutant]:
    """Make a mutant from a function that yields its changes, and name it after the function."""

    def make(changes: Callable[[], Iterable[Change]]) -> Mutant:
        return Mutant(changes.__name__.replace("_", "-"), rule, source, changes)

    return make
