"""Argument types for argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["at_least"]


def at_least(smallest: int) -> Callable[[str], int]:
    """Return an argparse `type` for whole numbers with a lower bound."""

    def number(text: str) -> int:
        if (value := int(text)) < smallest:
            raise argparse.ArgumentTypeError(f"{value} is less than {smallest}")
        return value

    return number
