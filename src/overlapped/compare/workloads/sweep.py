"""`sweep`: the same requests with one number in flight after another, and the number that `overlapped` finds."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overlapped.compare import server
from overlapped.compare.catalog import chosen_models
from overlapped.compare.curve import Curve, Curves, Spot
from overlapped.compare.runner import LIMIT_S, Row, check_same, run_models
from overlapped.compare.workloads.crawl import LEAST_PART, PART_S

if TYPE_CHECKING:
    from collections.abc import Callable

SWEPT = "aiohttp"
"""The model whose number is set: the one that `overlapped` runs on, too."""
NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        requests: how many pages.
        delay_s: how late each answer is, s.
        most: largest number in flight.
        repeat: runs of each number.
        whole: small numbers fetch all pages too, not a part.
    """

    requests: int = 1_000
    delay_s: float = 0.1
    most: int = 1_000
    repeat: int = 3
    whole: bool = False

    @property
    def numbers(self) -> list[int]:
        """The numbers in flight, ascending: no more than there are requests."""
        most = min(self.most, self.requests)
        return sorted({*(number for number in NUMBERS if number < most), most})

    def count(self, number: int) -> int:
        """Requests that are made with so many in flight: a part, where all of them would take long."""
        if self.whole or not self.delay_s:
            return self.requests
        part = max(LEAST_PART, math.ceil(PART_S / self.delay_s) * number)
        return min(self.requests, part)


def compare(wanted: Wanted, on_run: Callable[[str], None] = lambda _: None) -> Curves:
    """Every number on our own server, then none; `on_run` is told what is run next.

    Raises:
        ComparisonError: a run failed, hangs, or brought other bytes than the server sent.
    """
    swept, ours = chosen_models([SWEPT, "overlapped"], "crawl")
    rows = [Row(swept, wanted.count(number), 0) for number in wanted.numbers]
    found = Row(ours, wanted.requests, 0)
    numbers = {id(row): number for row, number in zip(rows, wanted.numbers, strict=True)}
    with server.running_server() as port:
        urls = server.urls(port, wanted.requests, wanted.delay_s)

        def order(row: Row) -> dict[str, Any]:
            work = {"urls": urls[: row.count], "concurrency": numbers.get(id(row), 1)}
            return {"kind": "Crawl", "function": "crawl", "work": work}

        def name(row: Row) -> str:
            return f"{row.name}, {numbers[id(row)]:,} in flight" if id(row) in numbers else row.name

        run_models(
            [*rows, found],
            order,
            repeat=wanted.repeat,
            limit_s=lambda row: LIMIT_S + 2 * wanted.delay_s * row.count,
            on_run=on_run,
            name=name,
        )
    check_same([*rows, found], [hashlib.sha256(server.page(n)).hexdigest()[:16] for n in range(wanted.requests)])
    return _made(rows, found, wanted)


def _made(rows: list[Row], found: Row, wanted: Wanted) -> Curves:
    curve = Curve(
        SWEPT,
        [_spot(row, number) for row, number in zip(rows, wanted.numbers, strict=True) if row.runs],
        _spot(found, found.concurrency) if found.runs else None,
        reason=rows[0].reason,
        bound_per_s=[number / wanted.delay_s for number in wanted.numbers] if wanted.delay_s else (),
    )
    made = Curves(
        workload="sweep",
        title="How many requests in flight?",
        subject=f"{wanted.requests:,} requests by {SWEPT}, each answer {wanted.delay_s * 1e3:g} ms late, "
        "with one number in flight after another; overlapped was given none",
        what="in flight",
        noun="request",
        who="client",
        curves=[curve],
        repeat=wanted.repeat,
    )
    parts = [number for row, number in zip(rows, wanted.numbers, strict=True) if row.count < wanted.requests]
    if parts and curve.spots:
        made.notes.append(f"up to {max(parts):,} in flight a part of the requests was measured, about {PART_S:g} s")
    if curve.bound_per_s:
        made.notes.append(
            "the black dashes in the picture are the number in flight / the lateness: no client can be faster"
        )
    if curve.spots and curve.found:
        if importlib.util.find_spec("uvloop") is not None:
            made.notes.append(
                f"{SWEPT} ran on asyncio's own loop, as written; overlapped on uvloop, as it does by itself"
            )
        made.notes.append(
            f"overlapped, the search for its number included, made {curve.share:.2f} of the best number's rate; "
            f"it ended with a limit of {curve.found.setting:,}"
        )
    return made


def _spot(row: Row, setting: int) -> Spot:
    run = row.median
    took = [ended - began for began, ended in zip(run.began_s, run.ended_s, strict=True)]
    rates = [row.count / once.seconds for once in row.runs]
    return Spot(
        setting=setting,
        rates=rates,
        call_s=sum(took) / len(took),
        cpu_s=run.cpu_s / row.count,
        peak_rss_bytes=run.peak_rss_bytes,
        whole_per_s=row.count / row.median_s,
    )
