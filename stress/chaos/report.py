"""The report of a chaos run: one self-contained HTML page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .check import Judgement, percentile
from .evidence import Evidence
from .faults import KINDS
from .gaps import Gap
from .run import Outline
from .timeline import COLOURS, label, node_names, timeline

__all__ = ["page", "write_report"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #656d76; --paper: #fff; --line: #d8dee4; --bad: #cf222e;
        --good: #1a7f37; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #8b949e; --paper: #0d1117; --line: #30363d;
        --bad: #ff7b72; --good: #3fb950; --card: #161b22; } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 24px auto;
       max-width: 1280px; padding: 0 20px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 32px 0 8px; }
.verdict { font-weight: 600; } .ok { color: var(--good); } .interrupted { color: var(--dim); }
.violated { color: var(--bad); }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; }
.card b { display: block; font-size: 19px; font-variant-numeric: tabular-nums; } .card span { color: var(--dim); }
.card.bad b { color: var(--bad); }
code { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 6px 10px;
       display: block; overflow-x: auto; }
table { border-collapse: collapse; } td, th { padding: 3px 14px 3px 0; text-align: right; vertical-align: top;
       border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td.t, th.t { text-align: left; } th { color: var(--dim); font-weight: 500; }
.columns { display: flex; flex-wrap: wrap; gap: 0 64px; }
.note { color: var(--dim); } li { margin: 2px 0; }
.legend span { margin-right: 16px; white-space: nowrap; } .legend i { display: inline-block; width: 12px; height: 12px;
       border-radius: 3px; margin-right: 5px; vertical-align: -1px; }
svg { width: 100%; display: block; font: 10px system-ui, sans-serif; } svg text { fill: var(--ink); }
.runs { fill: none; } .load { opacity: .75; } .grid { stroke: var(--line); stroke-width: .5; }
.tick, .side { fill: var(--dim) !important; text-anchor: middle; } .side { text-anchor: end; }
.fault .line { stroke: currentColor; stroke-width: .6; opacity: .5; } .fault .band { fill: currentColor; opacity: .05; }
.fault .bar { fill: currentColor; opacity: .28; } .fault:hover .band { opacity: .2; } .fault:hover .bar { opacity: .6; }
.fault.node { color: #d1761f; } .fault.server { color: #8250df; } .fault.user { color: #57606a; }
.fault.alone { color: #cf222e; } .healed path { stroke: var(--good); stroke-width: 1.5; stroke-dasharray: 4 3; }
.healed text { fill: var(--good); text-anchor: end; } .gap { fill: none; stroke: var(--bad); stroke-width: .8; }
.overlap { fill: #ff00c8; stroke: #ff00c8; stroke-width: 2; }
"""

_SHOWN = 15


def write_report(
    path: Path, outline: Outline, evidence: Evidence, judgement: Judgement, figures: Mapping[str, Any], *, command: str
) -> None:
    """Write the page to a file."""
    path.write_text(page(outline, evidence, judgement, figures, command=command))


def page(
    outline: Outline, evidence: Evidence, judgement: Judgement, figures: Mapping[str, Any], *, command: str
) -> str:
    """Return the page as HTML."""
    begin, end = outline.begin or outline.end or 0, outline.end or 0
    title = f"Chaos run, seed {outline.terms.seed}: {figures['verdict']}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            *_head(outline, judgement, figures),
            *_violations(judgement),
            "<h2>Timeline</h2>",
            *_legend(judgement),
            timeline(evidence, judgement, begin, end),
            '<div class="columns"><div><h2>Gaps, by their most likely cause</h2>',
            _gap_table(evidence, judgement),
            *_isolated(judgement),
            "<h2>Restarts of innocent tasks, by their cause</h2>",
            _restart_table(judgement),
            "</div><div><h2>Longest gaps</h2>",
            _longest(judgement, begin),
            "</div></div>",
            "<h2>Fencing</h2>",
            _fencing(judgement),
            "<h2>Faults</h2>",
            _fault_table(evidence, begin),
            "<h2>To run it again</h2>",
            f"<code>{escape(command)}</code>",
            '<p class="note">The same seed gives the same faults at the same times; their effects may differ.</p>',
            "</body></html>",
        ]
    )


def _head(outline: Outline, judgement: Judgement, figures: Mapping[str, Any]) -> Iterator[str]:
    terms = outline.terms
    state = judgement.word
    count = len(judgement.violations)
    kept = {"ok": "every promise was kept", "interrupted": "interrupted, no promise broken so far"}.get(
        state, f"{count} violation{'s' * (count != 1)}"
    )
    broken = f", with a bug on purpose (--break {terms.broken})" if terms.broken else ""
    partial = " The run did not reach its end: this page shows it so far." * judgement.interrupted
    yield f'<h1>Chaos run, seed {terms.seed}: <span class="verdict {state}">{kept}</span></h1>'
    yield (
        f'<p class="note">{terms.servers} servers, {terms.nodes} nodes, {terms.tasks} tasks and more in bursts, '
        f"session timeout {terms.session_timeout:g} s, {terms.seconds:g} s of faults{broken}.{partial}</p>"
    )
    never = "not known" if judgement.interrupted else "never"
    settled = never if judgement.settled is None else f"{judgement.settled:.1f} s"
    unsettled = judgement.settled is None or judgement.settled > judgement.settle_limit
    isolated = max((gap.seconds for gap in judgement.isolated), default=None)
    cards = [
        ("overlaps", figures["overlaps"], figures["overlaps"] > 0),
        ("lost tasks", figures["lost"], figures["lost"] > 0),
        ("old-token writes accepted", len(judgement.old_accepted), bool(judgement.old_accepted)),
        ("old-token writes refused", len(judgement.old_rejected), False),
        (
            "innocent tasks restarted for another's sake",
            figures["innocents_restarted"],
            figures["innocents_restarted"] > 0,
        ),
        ("runs", figures["runs"], False),
        ("faults", figures["faults"], False),
        ("gap p50", f"{figures['gap_p50_ms']:,.0f} ms", False),
        ("gap p99", f"{figures['gap_p99_ms']:,.0f} ms", False),
        ("gap max", f"{figures['gap_max_ms']:,.0f} ms", False),
        (
            f"longest gap after a lone kill (limit {judgement.gap_limit:.1f} s)",
            "none" if isolated is None else f"{isolated:.2f} s",
            isolated is not None and isolated > judgement.gap_limit,
        ),
        (
            f"from the last heal until all tasks ran evenly (limit {judgement.settle_limit:.1f} s)",
            settled,
            unsettled and not judgement.interrupted,
        ),
    ]
    yield '<div class="cards">'
    for name, value, bad in cards:
        yield f'<div class="card{" bad" * bad}"><b>{value}</b><span>{escape(name)}</span></div>'
    yield "</div>"


def _violations(judgement: Judgement) -> Iterator[str]:
    if judgement.violations:
        yield '<h2 class="violated">Violations</h2><ul>'
        for violation in judgement.violations[:_SHOWN]:
            yield f"<li>{escape(violation)}</li>"
        if more := len(judgement.violations) - _SHOWN:
            yield f"<li>and {more} more</li>" if more > 0 else ""
        yield "</ul>"
    if judgement.notes:
        yield '<ul class="note">'
        yield from (f"<li>{escape(note)}</li>" for note in judgement.notes)
        yield "</ul>"


def _legend(judgement: Judgement) -> Iterator[str]:
    yield '<p class="legend">'
    for number, name in enumerate(node_names(judgement)):
        yield f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
    for colour, what in (
        ("#d1761f", "fault of a node or its links"),
        ("#8250df", "fault of a server"),
        ("#cf222e", "a lone kill"),
        ("#57606a", "user commands"),
        ("#ff00c8", "overlap"),
    ):
        yield f'<span><i style="background:{colour}"></i>{what}</span>'
    yield '<span><i style="border:1px solid var(--bad);height:8px"></i>one of the longest gaps</span></p>'


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1) -> str:
    """Return an HTML table. The first `texts` columns are text, the others numbers."""

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{' class=t' if place < texts else ''}>{escape(str(cell))}</{tag}>" for place, cell in enumerate(row)
        )

    lines = [f"<tr>{cells('td', row)}</tr>" for row in rows]
    return f"<table><tr>{cells('th', head)}</tr>\n" + "\n".join(lines) + "</table>"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


def _gap_table(evidence: Evidence, judgement: Judgement) -> str:
    by_kind: dict[str, list[Gap]] = defaultdict(list)
    for gap in judgement.gaps:
        by_kind[gap.cause.kind if gap.cause else "none: balancing"].append(gap)
    rows: list[Sequence[object]] = []
    for kind, gaps in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        seconds = [gap.seconds for gap in gaps]
        count = sum(fault.kind == kind and not fault.skipped for fault in evidence.faults)
        figures = [_milliseconds(percentile(seconds, fraction)) for fraction in (0.5, 0.99, 1.0)]
        rows.append((kind, count or "", len(gaps), *figures))
    return _table(("fault", "times", "gaps", "p50 ms", "p99 ms", "max ms"), rows)


def _restart_table(judgement: Judgement) -> str:
    by_cause = Counter((restart.cause, restart.explained) for restart in judgement.restarts)
    rows = [(cause if explained else f"unexplained: {cause}", n) for (cause, explained), n in by_cause.most_common()]
    return _table(("cause", "restarts"), rows)


def _isolated(judgement: Judgement) -> Iterator[str]:
    seconds = [gap.seconds for gap in judgement.isolated]
    if seconds:
        figures = ", ".join(f"{name} {percentile(seconds, f):.2f} s" for name, f in (("p50", 0.5), ("max", 1.0)))
        yield f"<p>After kills of one node with nothing else wrong: {len(seconds)} gaps, {figures}; "
        yield f"the limit is {judgement.gap_limit:.2f} s.</p>"
    if judgement.beside_crash_loop:
        longest = max(gap.seconds for gap in judgement.beside_crash_loop)
        yield f"<p>After the end of a process beside a crash loop: {len(judgement.beside_crash_loop)} gaps, "
        yield f"max {longest:.2f} s.</p>"


def _longest(judgement: Judgement, begin: int) -> str:
    longest = sorted(judgement.gaps, key=lambda gap: gap.seconds, reverse=True)[:12]
    rows = [
        (
            gap.before.task,
            f"{gap.before.process} to {gap.after.process}",
            label(gap.cause) if gap.cause else "balancing",
            f"{(gap.before.stop - begin) / 1e9:.1f}",
            f"{gap.seconds:.2f}",
        )
        for gap in longest
    ]
    return _table(("task", "nodes", "after", "from, s", "gap, s"), rows, texts=3)


def _fencing(judgement: Judgement) -> str:
    refused, accepted = judgement.old_rejected, judgement.old_accepted
    tasks = len({row.task for row in refused})
    return (
        f"<p>{len(accepted)} writes with an old token were accepted. {len(refused)}, of {tasks} tasks, were refused: "
        "a store without fencing would have accepted them.</p>"
    )


def _fault_table(evidence: Evidence, begin: int) -> str:
    rows = [
        (
            label(fault),
            KINDS[fault.kind].about + (", alone" if fault.alone else ""),
            KINDS[fault.kind].breaks or "none",
            fault.note,
            f"{(fault.start - begin) / 1e9:.1f}",
            "skipped" if fault.skipped else f"{(fault.end - fault.start) / 1e9:.1f}",
        )
        for fault in evidence.faults
    ]
    return _table(("fault", "what it is", "assumption it breaks", "note", "at, s", "for, s"), rows, texts=4)
