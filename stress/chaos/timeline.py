"""The timeline of a chaos run, as inline SVG: faults above, and below a row for each task, coloured by its node.

Each run is one stroke in the path of its node. This takes only a few bytes, so the file stays small. Overlaps and the
longest gaps are drawn on top, each with a tooltip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from metafora_trio.testing.history import Run

from .check import Judgement
from .evidence import Evidence, node_of
from .faults import KINDS
from .gaps import Gap
from .records import FaultRecord

__all__ = ["COLOURS", "label", "lanes", "node_names", "timeline"]

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#ff9da7")
"""The colours of the nodes, in the order of their names, repeated if there are more nodes."""

_WIDTH, _LEFT, _RIGHT = 1200.0, 92.0, 12.0
_LANE, _AXIS, _LOADS = 15, 22, 26
_LETTER = 5.2
"""The width of a letter of a fault's name, slightly above the average."""
_SECOND = 1e9
_MARKED_GAPS = 40


def lanes(spans: Iterable[tuple[float, float]]) -> list[int]:
    """Return a lane for each span, in order of start: the first free one, so that spans in one lane never overlap."""
    free: list[float] = []
    found = []
    for start, end in spans:
        lane = next((lane for lane, until in enumerate(free) if until <= start), len(free))
        free[lane : lane + 1] = [end]
        found.append(lane)
    return found


def node_names(judgement: Judgement) -> list[str]:
    """Return the names of the nodes that ran tasks, sorted by number."""
    names = {node_of(run.process) for runs in judgement.verdict.runs_of.values() for run in runs}
    return sorted(names, key=lambda name: int(name[1:]))


def label(fault: FaultRecord) -> str:
    """Return the text on a fault's bar."""
    return f"{fault.kind} {fault.target}".strip()


class _Drawing:
    """The measures of one drawing."""

    def __init__(self, evidence: Evidence, judgement: Judgement, begin: int, end: int) -> None:
        self.begin = begin
        self.end = max(end, begin + 1)
        self.evidence = evidence
        self.judgement = judgement
        runs_of = judgement.verdict.runs_of
        self.tasks = sorted(runs_of, key=lambda task: (not task.startswith("task-"), runs_of[task][0].process, task))
        self.row = {task: number for number, task in enumerate(self.tasks)}
        self.names = node_names(judgement)
        self.height_of_row = 4 if len(self.tasks) <= 300 else 2
        self.faults = [fault for fault in evidence.faults if not fault.skipped]
        self.lanes = lanes(self.span(fault) for fault in self.faults)
        self.top = (max(self.lanes, default=0) + 1) * _LANE + _AXIS
        self.bottom = self.top + len(self.tasks) * self.height_of_row
        self.height = self.bottom + 14 + _LOADS * len(self.names) + 8

    def x(self, t: float) -> float:
        """Return the x coordinate of an instant, limited to the drawing."""
        share = (min(max(t, self.begin), self.end) - self.begin) / (self.end - self.begin)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def span(self, fault: FaultRecord) -> tuple[float, float]:
        """Return the x coordinates between which a fault's bar and its name are drawn."""
        start, length = self.x(fault.start), len(label(fault)) * _LETTER + 6
        if start + length > _WIDTH:
            start = min(start, self.x(fault.end) - length)
        return start, max(self.x(fault.end), start + length)

    def y(self, task: str) -> float:
        """Return the y coordinate of the middle of a task's row."""
        return self.top + (self.row[task] + 0.5) * self.height_of_row

    def at(self, t: float) -> str:
        """Format an instant for people."""
        return f"{(t - self.begin) / _SECOND:.2f} s"


def timeline(evidence: Evidence, judgement: Judgement, begin: int, end: int) -> str:
    """Return the timeline as an `<svg>` element.

    Args:
        evidence: the evidence of the run.
        judgement: its judgement.
        begin, end: the span to show, in nanoseconds of CLOCK_MONOTONIC.
    """
    drawing = _Drawing(evidence, judgement, begin, end)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH:g} {drawing.height:g}" role="img" aria-label="tasks by node over time">',
        *_fault_bands(drawing),
        *_axis(drawing),
        *_runs(drawing),
        *_gaps(drawing),
        *_overlaps(drawing),
        *_loads(drawing),
        "</svg>",
    ]
    return "\n".join(parts)


def _fault_bands(drawing: _Drawing) -> Iterator[str]:
    for fault, lane in zip(drawing.faults, drawing.lanes, strict=True):
        kind = KINDS[fault.kind]
        left, right = drawing.x(fault.start), drawing.x(fault.end)
        y = lane * _LANE
        look = "alone" if fault.alone else "server" if "server" in kind.target else "user" if not kind.fault else "node"
        note = f" ({fault.note})" if fault.note else ""
        title = f"{label(fault)}{note}: {kind.about}; {drawing.at(fault.start)} to {drawing.at(fault.end)}"
        yield (
            f'<g class="fault {look}"><title>{escape(title)}</title>'
            f'<path class="line" d="M{left:g} {y + 13}V{drawing.bottom:g}"/>'
            f'<rect class="band" x="{left:g}" y="{drawing.top}" width="{max(right - left, 0.5):.1f}" '
            f'height="{drawing.bottom - drawing.top:g}"/>'
            f'<rect class="bar" x="{left:g}" y="{y + 1}" width="{max(right - left, 2):.1f}" height="13" rx="2"/>'
            f'<text x="{drawing.span(fault)[0] + 3:g}" y="{y + 11}">{escape(label(fault))}</text></g>'
        )


def _axis(drawing: _Drawing) -> Iterator[str]:
    seconds = (drawing.end - drawing.begin) / _SECOND
    step = next(step for step in (1, 2, 5, 10, 20, 60, 300, 1800) if seconds / step <= 16)
    y = drawing.top - 5
    for at in range(0, int(seconds) + 1, step):
        x = drawing.x(drawing.begin + at * _SECOND)
        yield f'<path class="grid" d="M{x:g} {y + 2}V{drawing.height:g}"/>'
        yield f'<text class="tick" x="{x:g}" y="{y}">{at} s</text>'
    healed = drawing.evidence.healed
    if healed is not None:
        x = drawing.x(healed)
        yield (
            f'<g class="healed"><title>everything healed: {drawing.at(healed)}</title>'
            f'<path d="M{x:g} {y - 8}V{drawing.height:g}"/>'
            f'<text x="{x - 4:g}" y="{drawing.bottom + 11:g}">healed</text></g>'
        )
    yield f'<text class="side" x="{_LEFT - 8:g}" y="{drawing.top + 9}">{len(drawing.tasks)} tasks,</text>'
    yield f'<text class="side" x="{_LEFT - 8:g}" y="{drawing.top + 21}">a row each</text>'


def _colour(drawing: _Drawing, name: str) -> str:
    return COLOURS[drawing.names.index(name) % len(COLOURS)]


def _runs(drawing: _Drawing) -> Iterator[str]:
    strokes: dict[str, list[str]] = {name: [] for name in drawing.names}
    for task, runs in drawing.judgement.verdict.runs_of.items():
        for run in runs:
            left, right = drawing.x(run.start), drawing.x(run.stop)
            # Draw at least a dot, so that even the shortest run is visible.
            strokes[node_of(run.process)].append(f"M{left:g} {drawing.y(task):g}h{max(right - left, 0.3):.1f}")
    for name, path in strokes.items():
        yield (
            f'<path class="runs" stroke="{_colour(drawing, name)}" stroke-width="{drawing.height_of_row * 0.8:g}" '
            f'd="{"".join(path)}"><title>{escape(name)}</title></path>'
        )


def _gaps(drawing: _Drawing) -> Iterator[str]:
    longest = sorted(drawing.judgement.gaps, key=lambda gap: gap.seconds, reverse=True)[:_MARKED_GAPS]
    for gap in longest:
        yield _mark(drawing, "gap", gap.before, gap.before.stop, gap.after.start, _gap_title(gap))


def _gap_title(gap: Gap) -> str:
    cause = label(gap.cause) if gap.cause else "balancing"
    return f"gap of {gap.seconds:.2f} s: {gap.before.task}, {gap.before.process} to {gap.after.process}, after {cause}"


def _overlaps(drawing: _Drawing) -> Iterator[str]:
    for overlap in drawing.judgement.verdict.overlaps:
        one, other = overlap.first, overlap.second
        title = f"OVERLAP of {overlap.ns / 1e6:.1f} ms: {one.task} in {one.process} and in {other.process}"
        yield _mark(drawing, "overlap", one, other.start, min(one.stop, other.stop), title)


def _mark(drawing: _Drawing, look: str, run: Run, start: int, stop: int, title: str) -> str:
    left, right = drawing.x(start), drawing.x(stop)
    return (
        f'<rect class="{look}" x="{left:g}" y="{drawing.y(run.task) - drawing.height_of_row / 2:g}" '
        f'width="{max(right - left, 1.5):.1f}" height="{drawing.height_of_row}">'
        f"<title>{escape(title)}, at {drawing.at(start)}</title></rect>"
    )


def _loads(drawing: _Drawing) -> Iterator[str]:
    """Draw a small chart for each node: the number of its tasks over time."""
    changes: dict[str, list[tuple[int, int]]] = {name: [] for name in drawing.names}
    for runs in drawing.judgement.verdict.runs_of.values():
        for run in runs:
            changes[node_of(run.process)] += [(run.start, 1), (run.stop, -1)]
    most = 1
    for steps in changes.values():
        load = 0
        steps.sort()
        for place, (t, step) in enumerate(steps):
            load += step
            steps[place] = (t, load)
            most = max(most, load)
    for number, (name, steps) in enumerate(changes.items()):
        base = drawing.bottom + 14 + (number + 1) * _LOADS - 4
        path = [f"M{_LEFT:g} {base:g}"]
        before = ""
        for t, load in steps:
            x, y = drawing.x(t), base - load / most * (_LOADS - 6)
            point = f"H{x:g}V{y:.1f}"
            if point != before:
                path.append(point)
            before = point
        path.append(f"H{_WIDTH - _RIGHT:g}V{base:g}Z")
        yield (
            f'<text class="side" x="{_LEFT - 8:g}" y="{base - 4:g}">{escape(name)}</text>'
            f'<path class="load" fill="{_colour(drawing, name)}" d="{"".join(path)}">'
            f"<title>tasks on {escape(name)}, at most {most} on any</title></path>"
        )
