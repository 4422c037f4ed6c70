"""`pipeline`: rows stored in batches of one size after another, and the size that `overlapped` finds."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from overlapped.compare import server
from overlapped.compare.base import About
from overlapped.compare.catalog import Model
from overlapped.compare.curve import Curve, Curves, Spot
from overlapped.compare.runner import LIMIT_S, Row, run_models, run_once
from overlapped.compare.workloads import storing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
MOST_ROWS = 10_000_000
"""Rows stored for a size at most: more than any service here takes in its time."""
SEARCH = 3.0
"""How many times as long as each size the flow without one is measured: in the first half it looks for it."""
SERVICES = {
    "SQLite": (storing.sqlite, ()),
    "PostgreSQL": (storing.postgresql, ("psycopg",)),
    "Redis": (storing.redis, ("redis.asyncio",)),
    "HTTP": (storing.http, ("aiohttp",)),
}
"""Function and packages of each, by its name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        postgres: where PostgreSQL is, as libpq reads it.
        redis: where Redis is.
        rows: stored at most, for each size.
        lasts_s: how long each size is measured, s.
        delay_s: how late the HTTP server answers, s.
        sizes: sizes of batches, ascending.
        repeat: runs of each size.
        services: which are measured.
    """

    postgres: str
    redis: str
    rows: int = MOST_ROWS
    lasts_s: float = 1.0
    delay_s: float = 0.01
    sizes: Sequence[int] = SIZES
    repeat: int = 1
    services: Sequence[str] = tuple(SERVICES)


@dataclass(frozen=True, slots=True)
class _Run:
    """What a row measures."""

    service: str
    size: int | None

    def order(self, wanted: Wanted, at: str, *, is_trial: bool = False) -> dict[str, Any]:
        function, imports = SERVICES[self.service]
        lasts_s = wanted.lasts_s * (SEARCH if self.size is None else 1)
        work = {"size": self.size, "lasts_s": lasts_s, "most": 1 if is_trial else wanted.rows, "at": at}
        return {"kind": "Storing", "function": function.__name__, "imports": imports, "work": work}

    @property
    def name(self) -> str:
        return f"{self.service}, " + ("no size given" if self.size is None else f"batches of {self.size:,}")


def compare(wanted: Wanted, on_run: Callable[[str], None] = lambda _: None) -> Curves:
    """Every size at every service, then none; `on_run` is told what is run next.

    Raises:
        ComparisonError: a run failed or hangs.
    """
    with ExitStack() as stack:
        port = stack.enter_context(server.running_server())
        folder = stack.enter_context(TemporaryDirectory(prefix="overlapped-pipeline-"))
        places = {
            "SQLite": os.path.join(folder, "rows.db"),
            "PostgreSQL": wanted.postgres,
            "Redis": wanted.redis,
            "HTTP": f"http://127.0.0.1:{port}/save?delay={wanted.delay_s:g}",
        }
        missing = {name: _missing(name, wanted, places[name]) for name in wanted.services}
        runs = [_Run(name, size) for name in wanted.services if not missing[name] for size in (*wanted.sizes, None)]
        rows = [(_row(run), run) for run in runs]
        known = {id(row): run for row, run in rows}
        run_models(
            [row for row, _ in rows],
            lambda row: known[id(row)].order(wanted, places[known[id(row)].service]),
            repeat=wanted.repeat,
            limit_s=lambda _: LIMIT_S + wanted.lasts_s * SEARCH,
            on_run=on_run,
            name=lambda row: known[id(row)].name,
        )
    return _made(rows, missing, wanted)


def _missing(name: str, wanted: Wanted, at: str) -> str:
    """Why a service cannot be measured - it is not there, or takes no rows from us -: found out with one row."""
    run = _Run(name, 1)
    told = run_once(_row(run).model, run.order(wanted, at, is_trial=True), LIMIT_S)
    return str(told.get("reason", ""))


def _row(run: _Run) -> Row:
    about = About("synchronous, blocking", "the service, during each call", "the call returns")
    return Row(Model(run.service, about, storing), 1, 0)


def _made(rows: list[tuple[Row, _Run]], missing: dict[str, str], wanted: Wanted) -> Curves:
    def curve(name: str) -> Curve:
        own = [(row, run.size) for row, run in rows if run.service == name]
        spots = [_spot(row, size) for row, size in own if size is not None]
        found = [_spot(row, row.concurrency) for row, size in own if size is None]
        return Curve(name, spots, found[0] if found else None, reason=missing[name])

    made = Curves(
        workload="pipeline",
        title="How many rows in a batch?",
        subject=f"rows stored one batch at a time, {wanted.lasts_s:g} s for each size; "
        f"HTTP answers {wanted.delay_s * 1e3:g} ms late",
        what="in a batch",
        noun="row",
        who="service",
        curves=[curve(name) for name in wanted.services],
        repeat=wanted.repeat,
    )
    shares = [f"{c.name} {c.share:.2f} with {c.found.setting:,}" for c in made.ran if c.found]
    if shares:
        made.notes.append(f"overlapped was given no size; its rate of the best size's, once found: {', '.join(shares)}")
        whole = [f"{c.name} {c.found.whole_per_s / c.best.per_s:.2f}" for c in made.ran if c.found]
        made.notes.append(f"the search included, {wanted.lasts_s * SEARCH:g} s in all: {', '.join(whole)}")
    return made


def _spot(row: Row, setting: int) -> Spot:
    run = row.median
    return Spot(
        setting=setting,
        rates=[once.figures["rows_per_s"] for once in row.runs],
        call_s=run.figures["call_s"],
        cpu_s=run.cpu_s / run.figures["rows"],
        peak_rss_bytes=run.peak_rss_bytes,
        whole_per_s=run.figures["whole_per_s"],
    )
