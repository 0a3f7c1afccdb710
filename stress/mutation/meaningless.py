"""Finds the parts of a module where a mutation can mean nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator

__all__ = ["Span", "meaningless"]

Span = tuple[tuple[int, int], tuple[int, int]]
"""Start and end of a piece of code, as line (from 1) and column (from 0). The end is not part of it."""

_LOOKS_ONLY = {"repr", "compare", "hash", "kw_only"}
"""The arguments of `field()` that no decision depends on."""


def meaningless(source: str) -> list[Span]:
    """Return the spans of annotations, `__all__`, and the flags of dataclasses and their fields.

    Annotations are never evaluated (`from __future__ import annotations`). Flags such as `slots` and `frozen` save
    memory and find mistakes; a program that works does so without them.
    """
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in _nodes(ast.parse(source))
    ]


def _nodes(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        match node:
            case ast.arg(annotation=ast.expr() as annotation) | ast.AnnAssign(annotation=annotation):
                yield annotation
            case ast.FunctionDef(returns=ast.expr() as returns) | ast.AsyncFunctionDef(returns=ast.expr() as returns):
                yield returns
            case ast.Call(func=ast.Name("dataclass"), keywords=flags):
                yield from (flag.value for flag in flags)
            case ast.Call(func=ast.Name("field"), keywords=flags):
                yield from (flag.value for flag in flags if flag.arg in _LOOKS_ONLY)
            case ast.Assign(targets=[ast.Name("__all__")], value=names):
                yield names
