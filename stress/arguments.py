"""Types of command line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["at_least"]


def at_least(smallest: int) -> Callable[[str], int]:
    """A whole number with a lower bound, as a `type` of argparse."""

    def number(text: str) -> int:
        if (value := int(text)) < smallest:
            raise argparse.ArgumentTypeError(f"{value} is less than {smallest}")
        return value

    return number
