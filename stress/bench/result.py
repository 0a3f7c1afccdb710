"""Result: the figures of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one benchmark.

    Attributes:
        figures: the figures by key, as `--json` prints them.
        baselines: for some keys, a value to compare the figure with, in words.
    """

    figures: Mapping[str, float]
    baselines: Mapping[str, str] = field(default_factory=dict)
