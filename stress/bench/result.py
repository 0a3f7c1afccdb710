"""What a benchmark has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one benchmark.

    Attributes:
        figures: by key, as `--json` prints them.
        baselines: by key, what the same run would have given otherwise, in words.
    """

    figures: Mapping[str, float]
    baselines: Mapping[str, str] = field(default_factory=dict)
