"""RemoveStatement: an operator for Cosmic Ray, which cannot remove a statement by itself.

Most mistakes that matter here are of this kind: a mark that is not cleared, or a time that is not noted. The operator
turns one statement of a function into `pass`. It needs no base class: Cosmic Ray only calls these methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Provider", "RemoveStatement"]

_NO_EFFECT = ("...", "pass", '"', "'", 'f"', "assert ", "import ", "from ", "global ", "nonlocal ", "_log.")
"""The statements that begin like this are kept: without most of them nothing changes, and log lines are no promise."""


class RemoveStatement:
    """Replaces a simple statement by `pass`."""

    @classmethod
    def arguments(cls) -> tuple[()]:
        """Return the operator's arguments."""
        return ()

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield the place of a node of the syntax tree, if it is a statement that the operator can remove."""
        if node.type == "simple_stmt" and node.search_ancestor("funcdef") is not None:
            code = node.get_code(include_prefix=False).strip()
            declares = getattr(node.children[0], "children", [None, None])[1]
            only_declares = getattr(declares, "type", "") == "annassign" and "=" not in code
            if not only_declares and not code.startswith(_NO_EFFECT):
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Turn the statement into `pass`, in place: the first word changes and the others go."""
        leaf, last = node.get_first_leaf(), node.get_last_leaf()  # the last is the line's end
        leaf.value = "pass"
        while (leaf := leaf.get_next_leaf()) is not last:
            leaf.prefix = leaf.value = ""
        return node


class Provider:
    """Finds the operator by name, for Cosmic Ray's entry point `cosmic_ray.operator_providers`."""

    def __iter__(self) -> Iterator[str]:
        return iter(("RemoveStatement",))

    def __getitem__(self, name: str) -> type[RemoveStatement]:
        return {"RemoveStatement": RemoveStatement}[name]
