"""A run as one HTML file: no script runs, nothing is fetched, and the record lies in it to be read back."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from overlapped.report import figures
from overlapped.report.data import to_dict
from overlapped.report.plain import cut, escape, isolated, plain, plain_error
from overlapped.report.speed import SURE_S, taken
from overlapped.report.svg import style
from overlapped.report.text import counted, ended_by, rate, seconds
from overlapped.report.verdict import times, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.record import RunRecord, StageRecord
    from overlapped.report.verdict import Finding

MOST_BYTES: Final = 300_000
"""Of a report, for any run: it can be mailed, and opens at once."""

LEAST_KEPT: Final = 16
"""Where even so few calls are too many, stages are shown by their numbers only."""

MOST_COURSES: Final = 8
MOST_STALLS: Final = 10
MOST_CHARS: Final = 120
"""Of a name or a reason; a function's name may be anything."""

MOST_DECISIONS: Final = 60
MOST_KINDS: Final = 12
EXAMPLES: Final = 3
PAPER_STYLE: Final = """
:root{color-scheme:light dark}
body{margin:0;background:#fff;color:#1f2430}
@media (prefers-color-scheme:dark){body{background:#14171c;color:#e6e9ef}}"""
PAGE_STYLE: Final = """
.o-report{margin:0 auto;padding:1.5rem;max-width:60rem;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans",sans-serif;--line:#dfe3e8;--muted:#586171;--panel:#f5f6f8;--accent:#2a7ab9;
--fail:#c0392b}
@media (prefers-color-scheme:dark){.o-report{--line:#333a44;--muted:#a3adba;--panel:#1d2229;--accent:#58a6e6;
--fail:#ff7b6e}}
@media print{.o-report{--line:#dfe3e8;--muted:#586171;--panel:#f5f6f8;--fail:#c0392b}}
.o-report svg{display:block;width:100%;height:auto;min-width:30rem}
.o-report .o-wide{overflow-x:auto}
.o-report .o-two svg{min-width:26rem}
.o-report .o-two{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:0 1rem}
.o-report h1{font-size:1.4rem;line-height:1.3;margin:0}
.o-report h2{font-size:1.05rem;margin:2.2rem 0 .5rem}
.o-report h3{font-size:.95rem;margin:1rem 0 0;font-weight:600}
.o-report .o-by{color:var(--muted);margin:.3rem 0;font-size:.87rem}
.o-report .o-error{margin:1.2rem 0 0;padding:.6rem 1rem;background:var(--panel);border-left:4px solid var(--fail);
overflow-wrap:anywhere}
.o-report .o-verdict{margin:1.2rem 0;padding:.2rem 1rem;background:var(--panel);border-left:4px solid var(--accent)}
.o-report .o-notes{color:var(--muted);padding-left:1.2rem;margin:.5rem 0}
.o-report table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.82rem}
.o-report th,.o-report td{padding:.3rem .4rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;
white-space:nowrap}
.o-report th:first-child,.o-report .o-words td,.o-report .o-words th{text-align:left}
.o-report .o-words td{white-space:normal;overflow-wrap:anywhere}
.o-report th{font-weight:600}
.o-report thead th{white-space:normal;vertical-align:bottom}
.o-report tbody th{white-space:normal;overflow-wrap:anywhere;min-width:7rem}
.o-report code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}
"""

STAGE_HEAD: Final = (
    *("stage", "lane", "items in", "out", "calls", "retried", "failed", "limit", "in flight (mean)"),
    *("waited", "p50", "p90", "p99", "CPU"),
)


class Group(NamedTuple):
    """Failures of one kind in one stage."""

    stage: str
    kind: str
    items: str
    examples: list[Example]


class Example(NamedTuple):
    """One of them."""

    item: str
    error: str


def page(record: RunRecord) -> str:
    """The whole file, never above `MOST_BYTES` for any run: long lists are thinned until it fits."""
    most = figures.MOST_BARS
    while True:
        small = shrunk(record, most)
        text = _page(small, record)
        if len(text.encode()) <= MOST_BYTES or most <= LEAST_KEPT:
            return text
        most //= 2


def shrunk(record: RunRecord, most: int) -> RunRecord:
    """The record with at most about `most` calls, a fifth as many points, a tenth as many decisions and failures."""
    stages = max(1, len(record.stages))

    def smaller(stage: StageRecord) -> StageRecord:
        if most <= LEAST_KEPT:  # dozens of stages: their numbers only
            bare = replace(stage, name=stage.name[:MOST_CHARS], why="", kept_calls=(), points=(), decisions=())
            return replace(bare, latencies=figures.coarser(stage.latencies, 8))
        decisions = _every(stage.decisions, max(2, most // 10 // stages))
        return replace(
            stage,
            name=stage.name[:MOST_CHARS],
            why=stage.why[:MOST_CHARS],
            kept_calls=tuple(figures.thinned(stage.kept_calls, max(8, most // stages))),
            points=_every(stage.points, max(8, most // 5 // stages)),
            decisions=tuple(replace(d, reason=d.reason[:60], evidence=d.evidence[:MOST_CHARS]) for d in decisions),
            latencies=figures.coarser(stage.latencies, max(16, most // 4 // stages)),
        )

    failures = record.failures[: max(3, most // 20)]
    stalls = tuple(
        s._replace(where=s.where[:MOST_CHARS], code=s.code[:MOST_CHARS]) for s in record.stalls[:MOST_STALLS]
    )
    return replace(record, stages=tuple(map(smaller, record.stages)), failures=failures, stalls=stalls)


def _every(values: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """About `most` of them, evenly, with the first and the last."""
    if len(values) <= most:
        return values
    step = len(values) / most
    return (*(values[int(at * step)] for at in range(most - 1)), values[-1])


def sheet() -> str:
    """The style sheet of a page."""
    return f"{style()}{PAPER_STYLE}{PAGE_STYLE}"


def _page(small: RunRecord, whole: RunRecord) -> str:
    import markupsafe

    data = json.dumps(to_dict(small), separators=(",", ":")).replace("<", "\\u003c")
    return render(
        "run.html",
        headline=headline(whole),
        sheet=markupsafe.Markup(sheet()),  # noqa: S704 - constants
        body=markupsafe.Markup(body(small, whole)),  # noqa: S704 - rendered with autoescape
        record=markupsafe.Markup(data),  # noqa: S704 - JSON without a single "<" cannot end its element
    )


def fragment(record: RunRecord) -> str:
    """The report as a part of a notebook."""
    return f'<style>{style()}{PAGE_STYLE}</style><div class="o-report">{body(shrunk(record, 1_000), record)}</div>'


def body(small: RunRecord, whole: RunRecord) -> str:
    """Everything between header and record: figures from the thinned record, numbers from the whole one."""
    stages = figures.calling(small)
    courses = [(figures.name_of(stage), figures.course(stage, small)) for stage in stages[:MOST_COURSES]]
    histograms = [figures.histogram(stage) for stage in stages[:MOST_COURSES]]
    decisions = sorted(
        ((decision.at_s, stage, decision) for stage in small.stages for decision in stage.decisions),
        key=lambda entry: entry[0],
    )
    shown = decisions if len(decisions) <= MOST_DECISIONS else decisions[: MOST_DECISIONS // 2]
    shown += decisions[-MOST_DECISIONS // 2 :] if len(decisions) > MOST_DECISIONS else []
    total = sum(len(stage.decisions) for stage in whole.stages)
    return render(
        "body.html",
        headline=headline(whole),
        provenance=provenance(whole),
        ended_by=ended_by(whole),
        findings=_findings(whole),
        notes=[*notes(whole)],
        chronology=_inline(figures.chronology(small)),
        shares=_inline(figures.shares(small)),
        courses=[(name, _inline(drawn)) for name, drawn in courses if drawn is not None],
        histograms=[_inline(drawn) for drawn in histograms if drawn is not None],
        stage_head=STAGE_HEAD,
        stages=[_stage_row(stage, whole) for stage in whole.stages],
        decisions=[_decision_row(stage, decision) for _, stage, decision in shown],
        decisions_left_out=total - len(shown),
        failures=groups(whole),
        failed_line=_failed_line(whole),
        stalls=[
            (escape(s.where), escape(s.code), f"{s.times:,}", seconds(s.total_s), seconds(s.longest_s))
            for s in small.stalls
        ],
    )


def _findings(record: RunRecord) -> list[Finding]:
    """What set the pace; while a run goes on, only what there is evidence of already."""
    if record.state != "running":
        return [*verdict(record)]
    return [found for found in verdict(record) if record.elapsed_s >= SURE_S and found.kind not in ("none", "few")]


def render(name: str, **given: Any) -> str:
    """A template of ours, filled in; what is not marked as markup is escaped."""
    text: str = _template(name).render(given)
    return text


@cache
def _template(name: str) -> Any:
    """To read and compile it takes longer than to fill it in, and a live page does that every second."""
    import jinja2

    with open(os.path.join(os.path.dirname(__file__), "templates", name), encoding="utf-8") as file:
        return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(file.read())


def _inline(drawn: Any) -> Any:
    import markupsafe

    return None if drawn is None else markupsafe.Markup(drawn.inline())  # noqa: S704 - report.svg escapes all text


# -- words -------------------------------------------------------------------------------------------------------


def headline(record: RunRecord) -> str:
    """Items, seconds, rate; and how it ended, if not well."""
    count = max(record.items, record.stages[0].items_in if record.stages else 0)
    if record.state == "running":
        count = max(record.items, taken(record))  # not those that have only been pulled
    per_s = rate(count, record.elapsed_s) if count else ""
    text = f"{counted(count, 'item')} in {seconds(record.elapsed_s)}" + (f" ({per_s})" if per_s else "")
    how = {"done": "", "running": "running: ", "stopped": "stopped early: "}.get(record.state, f"{record.state}: ")
    failed = f", {record.failed:,} failed" if record.failed else ""
    return how + text + failed


def provenance(record: RunRecord) -> str:
    """What of, when, and on what."""
    when = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(record.started_at)) if record.started_at else ""
    stages = " → ".join(isolated(figures.name_of(stage)) for stage in record.stages)
    flow = f"{cut(escape(record.source), 60)}" + (f" → {stages}" if stages else "")
    cpus = f"{record.cpus}\u00a0CPU{'' if record.cpus == 1 else 's'}"
    return " · ".join(part for part in (flow, when, escape(record.made_by), cpus) if part)


def notes(record: RunRecord) -> Iterator[str]:
    """Further numbers of the whole run."""
    if record.stages and not record.stages[0].items_in:
        yield "no item has come from the source" + (" yet" if record.state == "running" else "")
    alone_s = sum(stage.service_s for stage in record.stages)
    if record.elapsed_s > 0 and alone_s > 1.1 * record.elapsed_s and record.state in ("done", "stopped"):
        alone = f"about {seconds(alone_s)} (the sum of service times)"
        yield f"one call at a time: {alone}; overlapped about {times(alone_s / record.elapsed_s)}x as fast"
    if record.elapsed_s > 0 and record.cpu_s:
        loop = "" if record.loop_cpu_s is None else f", of which the loop's thread {seconds(record.loop_cpu_s)}"
        yield f"CPU {seconds(record.cpu_s)} ({record.cpu_s / record.elapsed_s:.0%} of one core){loop}"
    if record.peak_rss_bytes:
        yield f"peak memory {record.peak_rss_bytes / 2**20:,.0f} MiB"
    if (count := len(figures.calling(record))) > MOST_COURSES:
        bands = min(count, figures.MOST_BANDS)
        yield f"of {count} stages with calls, the chronology shows the first {bands}, limit and times {MOST_COURSES}"
    for error in record.cleanup_errors[:EXAMPLES]:
        yield f"while the run was closed: {plain_error(error)}"


def _stage_row(stage: StageRecord, record: RunRecord) -> tuple[str, ...]:
    low, high = stage.limit_range
    limit = f"{stage.limit:,}" + (f" ({low:,} to {high:,})" if low != high else "")
    share = stage.cpu_s / stage.service_s if stage.cpu_s is not None and stage.service_s else None
    took = [seconds(stage.took_s(part)) if stage.latencies else "" for part in (0.5, 0.9, 0.99)]
    return (
        figures.name_of(stage),
        escape(stage.lane),
        f"{stage.items_in:,}",
        f"{stage.items_out:,}",
        f"{stage.calls:,}",
        f"{stage.retries:,}" if stage.retries else "",
        f"{stage.failed:,}" if stage.failed else "",
        limit,
        f"{stage.service_s / record.elapsed_s:.1f}" if record.elapsed_s else "",
        seconds(stage.queued_s / stage.items_in) if stage.items_in and stage.queued_s else "",
        *took,
        "" if share is None else f"{min(1.0, share):.0%}",
    )


def _decision_row(stage: StageRecord, decision: Any) -> tuple[str, ...]:
    why = cut(escape(": ".join(text for text in (decision.reason, decision.evidence) if text)), 2 * MOST_CHARS)
    new, old = (
        f"{value:,.4g}" if value is not None and value != float("inf") else "none"
        for value in (decision.new, decision.old)
    )
    return (seconds(decision.at_s), figures.name_of(stage), decision.what, old, new, why)


def groups(record: RunRecord) -> list[Group]:
    """Failures by stage and type, the most frequent first."""
    kinds = Counter((failure.stage, type(failure.error).__name__) for failure in record.failures)
    found = []
    for (stage, kind), count in kinds.most_common(MOST_KINDS):
        same = [f for f in record.failures if (f.stage, type(f.error).__name__) == (stage, kind)][:EXAMPLES]
        examples = [Example(plain(f.item), plain_error(f.error)) for f in same]
        found.append(Group(cut(escape(stage), 40), cut(escape(kind), 60), f"{count:,}", examples))
    return found


def _failed_line(record: RunRecord) -> str:
    kept = len(record.failures)
    text = f"{counted(record.failed, 'item')} failed for good"
    return text + (f"; the first {kept:,} are counted below" if kept < record.failed else "")
