"""`crawl`: so many requests to a server whose answers come late - the book's first experiment."""

from __future__ import annotations

import hashlib
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overlapped.compare import server
from overlapped.compare.comparison import Comparison
from overlapped.compare.runner import LIMIT_S, Row, check_same, run_models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlapped.compare.catalog import Model

PART_S = 2.0
"""How long a model is measured that has one request in flight: enough for an estimate that says what it is."""
LEAST_PART = 10
"""Fewest requests of such a part."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        requests: how many pages.
        delay_s: how late each answer is, s.
        concurrency: requests in flight, where a model needs the number.
        repeat: runs of each model.
        whole: also the models with one request in flight fetch all pages, not a part.
    """

    requests: int = 400
    delay_s: float = 0.1
    concurrency: int = 100
    repeat: int = 3
    whole: bool = False


def compare(models: Sequence[Model], wanted: Wanted, on_run: Callable[[str], None] = lambda _: None) -> Comparison:
    """All models on our own server; `on_run` is told what is run next.

    Raises:
        ComparisonError: a model failed, hangs, or brought other bytes than the server sent.
    """
    with ExitStack() as stack:
        port = stack.enter_context(server.running_server())
        urls = server.urls(port, wanted.requests, wanted.delay_s)
        rows = rows_of(models, wanted)
        run_rows(rows, urls, wanted, on_run)
    check_same(rows, [hashlib.sha256(server.page(number)).hexdigest()[:16] for number in range(wanted.requests)])
    made = Comparison(
        workload="crawl",
        subject=f"{wanted.requests:,} requests, each answer {wanted.delay_s * 1e3:g} ms late, "
        f"{wanted.concurrency} in flight where a model needs the number",
        noun="request",
        count=wanted.requests,
        concurrency=wanted.concurrency,
        delay_s=wanted.delay_s,
        bound_s=math.ceil(wanted.requests / wanted.concurrency) * wanted.delay_s,
        rows=rows,
    )
    made.notes.extend(part(made))
    if wanted.delay_s:
        made.notes.append(
            f"no model with {made.concurrency} in flight can be faster than {made.bound_s:.3g} s "
            f"({math.ceil(made.count / made.concurrency)} rounds of {made.delay_s * 1e3:g} ms)"
        )
    made.notes.extend(notes(made))
    return made


def part(made: Comparison) -> list[str]:
    """Which models were measured on a part, and what that makes of the whole."""
    return [
        f"{row.name} was measured on {row.count} of {made.count:,}: {row.median_s:.3g} s; all are "
        f"about {row.estimate_s(made.count):.3g} s (estimate: {made.count / row.count:g} times as many)"
        for row in made.rows
        if row.runs and row.count < made.count
    ]


def notes(made: Comparison) -> list[str]:
    """What is said below every crawl."""
    found = [row for row in made.rows if row.runs and not row.model.about.has_number]
    return [f"{row.name} was given no number and ended with a limit of {row.concurrency} in flight" for row in found]


def rows_of(models: Sequence[Model], wanted: Wanted) -> list[Row]:
    """A row for each model, not yet run; one that has one request in flight is measured on a part."""
    return [_row(model, wanted) for model in models]


def _row(model: Model, wanted: Wanted) -> Row:
    count = wanted.requests
    if model.about.one_at_a_time and not wanted.whole and wanted.delay_s:
        count = min(count, max(LEAST_PART, math.ceil(PART_S / wanted.delay_s)))
    return Row(model, count, model.lines("crawl"))


def run_rows(rows: Sequence[Row], urls: list[str], wanted: Wanted, on_run: Callable[[str], None]) -> None:
    """Run them all on these addresses."""

    def order(row: Row) -> dict[str, Any]:
        work = {"urls": urls[: row.count], "concurrency": wanted.concurrency}
        return {"kind": "Crawl", "function": "crawl", "work": work}

    run_models(
        rows,
        order,
        repeat=wanted.repeat,
        limit_s=lambda row: LIMIT_S + 2 * wanted.delay_s * row.count,
        on_run=on_run,
    )
