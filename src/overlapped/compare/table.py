"""A comparison as a table of plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlapped.report.plain import cut, escape
from overlapped.report.text import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlapped.compare.comparison import Comparison
    from overlapped.compare.runner import Row

REASON_CHARS = 100
"""Longest reason shown: one line beside the model's name."""
HEAD = ("model", "time", "per s", "in flight", "CPU", "of a core", "asked in vain", "switches", "memory", "lines")


def table(made: Comparison) -> str:
    """The comparison for people: the fastest first, then what could not run and why, then what to keep in mind."""
    ran = [row for row in made.by_time() if row.runs]
    lines = [f"{made.workload}: {made.subject}", ""]
    lines += columns([HEAD, *(cells(row, made) for row in ran)])
    lines += [f"{row.name}  not run: {cut(escape(row.reason), REASON_CHARS)}" for row in made.rows if not row.runs]
    each = f"a {made.noun}"
    legend = [
        f"time: median of {len(ran[0].runs)} runs, each in a fresh process" if ran and len(ran[0].runs) > 1 else "",
        f"asked in vain, switches (voluntary + involuntary): {each}; lines: of code",
    ]
    return "\n".join([*lines, "", *(note for note in [*legend, *made.notes] if note)])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def cells(row: Row, made: Comparison) -> tuple[str, ...]:
    """A row that ran, under HEAD."""
    run, count = row.median, row.count
    is_part = count < made.count
    found = " found" if run.found is not None else ""
    return (
        row.name,
        ("about " if is_part else "") + seconds(row.estimate_s(made.count)),
        f"{count / row.median_s:,.0f}" if count / row.median_s >= 10 else f"{count / row.median_s:.2g}",
        f"{row.concurrency:,}{found}",
        seconds(run.cpu_s * made.count / count),
        f"{run.cpu_s / run.seconds:.0%}",
        f"{run.vain_asks / count:,.0f}" if run.vain_asks else "0",
        f"{run.voluntary / count:.1f} + {run.involuntary / count:.1f}",
        f"{run.peak_rss_bytes / 2**20:,.0f} MiB",
        f"{row.lines}",
    )
