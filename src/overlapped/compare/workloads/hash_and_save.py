"""`hash-and-save`: the book's second experiment - work and waiting in turn, and how much of the waiting is hidden."""

from __future__ import annotations

import inspect
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overlapped.compare import server
from overlapped.compare.base import About
from overlapped.compare.catalog import Model, code_lines
from overlapped.compare.comparison import Comparison
from overlapped.compare.runner import LIMIT_S, Row, check_same, run_models
from overlapped.compare.workloads import saving
from overlapped.compare.workloads.crawl import PART_S, part

if TYPE_CHECKING:
    from collections.abc import Callable

_IMPORTS = ("bcrypt", "aiohttp", "uvloop")
WAYS = {
    "no I/O": (saving.no_io, About("synchronous, blocking", "the process", "nobody: nothing is waited for")),
    "serial": (saving.serial, About("synchronous, blocking", "the kernel, during each save", "the call returns")),
    "batches": (saving.batches, About("asynchronous, blocking", "the process, then the loop", "the loop")),
    "fully async": (saving.fully_async, About("asynchronous, blocking", "the process, the loop between", "the loop")),
    "async + threads": (saving.async_threads, About("asynchronous, blocking", "threads beside the loop", "the loop")),
    "overlapped": (
        saving.overlapped,
        About("asynchronous, blocking", "threads beside the loop", "the loop", has_number=False),
    ),
}
"""Each way by its name, in the order of the story."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        items: passwords.
        delay_s: how late the server answers to a save, s.
        cost: bcrypt's difficulty.
        repeat: runs of each way.
        whole: the serial way does all items, not a part.
    """

    items: int = 200
    delay_s: float = 0.1
    cost: int = 8
    repeat: int = 3
    whole: bool = False


def compare(wanted: Wanted, on_run: Callable[[str], None] = lambda _: None) -> Comparison:
    """All ways on the same passwords; `on_run` is told what is run next.

    Raises:
        ComparisonError: one failed, hangs, or made other hashes.
    """
    rows = [_row(name, wanted) for name in WAYS]
    with server.running_server() as port:

        def order(row: Row) -> dict[str, Any]:
            work = {"count": row.count, "cost": wanted.cost, "port": port, "path": f"/save?delay={wanted.delay_s:g}"}
            return {"kind": "Saving", "function": WAYS[row.name][0].__name__, "imports": _IMPORTS, "work": work}

        run_models(rows, order, repeat=wanted.repeat, limit_s=lambda _: LIMIT_S, on_run=on_run)
    check_same(rows, None)
    bare_s = rows[0].median_s if rows[0].runs else math.nan
    cpus = os.cpu_count() or 1
    made = Comparison(
        workload="hash-and-save",
        title="hashing and saving, from one thing at a time to everything overlapped",
        subject=f"{wanted.items:,} passwords hashed with bcrypt ({wanted.cost}) and saved over HTTP, "
        f"each answer {wanted.delay_s * 1e3:g} ms late",
        noun="password",
        count=wanted.items,
        concurrency=saving.BATCH,
        delay_s=wanted.delay_s,
        bound_s=bare_s / cpus + wanted.delay_s,
        rows=rows,
    )
    made.notes.extend(part(made))
    if rows[0].runs:
        times = ", ".join(f"{row.name} {row.estimate_s(made.count) / bare_s:.2f}" for row in rows[1:] if row.runs)
        made.notes.append(f"times no I/O: {times}")
        made.notes.append(
            f"the bound is the hashing on {cpus} CPUs and one save: {made.bound_s:.3g} s; times it: {_times(made)}"
        )
    made.notes.extend(note for row in rows if row.runs for note in row.median.notes)
    return made


def _times(made: Comparison) -> str:
    return ", ".join(f"{row.name} {row.estimate_s(made.count) / made.bound_s:.2f}" for row in made.rows[1:] if row.runs)


def _row(name: str, wanted: Wanted) -> Row:
    function, about = WAYS[name]
    count = wanted.items
    if name == "serial" and not wanted.whole and wanted.delay_s:
        count = min(count, math.ceil(PART_S / wanted.delay_s))
    return Row(Model(name, about, saving), count, code_lines(inspect.getsource(function)))
