"""FaultRecord: a fault as it happened, one line of `faults.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .faults import FaultKind

__all__ = ["FaultRecord", "append_record", "read_records"]


@dataclass(slots=True)
class FaultRecord:
    """A fault as it happened. Times are CLOCK_MONOTONIC in nanoseconds.

    Attributes:
        kind: the kind of fault.
        target: a node, a server such as "s2 (leader)", or empty.
        start: when it was injected.
        end: when it was healed; in an interrupted run, when the run ended.
        alone: True if no other fault was planned near it.
        note: details in words.
        late: the nodes that were killed because they did not drain in time.
        skipped: True if it was not injected; the note says why.
    """

    kind: FaultKind
    target: str
    start: int
    end: int = 0
    alone: bool = False
    note: str = ""
    late: Sequence[str] = ()
    skipped: bool = False


def read_records(path: Path) -> list[FaultRecord]:
    """Return the recorded faults of a run, sorted by start."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [FaultRecord(**{**line, "kind": FaultKind(line["kind"])}) for line in map(json.loads, lines)]
    return sorted(records, key=lambda record: record.start)


def append_record(folder: Path, record: FaultRecord) -> None:
    """Add a fault to the records of a run. Several processes may do so, because each line is one write."""
    with (folder / "faults.jsonl").open("ab", buffering=0) as file:
        file.write(json.dumps(asdict(record)).encode() + b"\n")
