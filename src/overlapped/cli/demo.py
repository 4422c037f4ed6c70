"""`overlapped demo`: every I/O model side by side, then a real job one page at a time and overlapped."""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from overlapped.cli.compare import raised_as_problem, running_line
from overlapped.cli.job import load_job
from overlapped.cli.progress import make_view
from overlapped.cli.run import Outcome, conclude, execute, told
from overlapped.cli.say import ExitCode, Problem, say, write_stderr, write_stdout
from overlapped.cli.signals import Signals
from overlapped.cli.site import running_site
from overlapped.compare.catalog import chosen_models
from overlapped.compare.table import table
from overlapped.compare.workloads import crawl
from overlapped.report.text import counted, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped import Report
    from overlapped.cli.common import Common
    from overlapped.cli.jobs.crawl import Counts
    from overlapped.compare.comparison import Comparison

SAMPLE = 20
"""Pages fetched one at a time: 2 s at 100 ms, enough for an estimate that says what it is."""
JOB = Path(__file__).parent / "jobs" / "crawl.py"
TOP = 5
"""Modules in the answer."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Pages done one at a time, in a plain loop of blocking calls.

    Attributes:
        items: pages fetched, parsed and saved.
        elapsed_s: wall time, s.
        voluntary_switches: context switches because this process waited.
        involuntary_switches: context switches because the kernel took the core away.
    """

    items: int
    elapsed_s: float
    voluntary_switches: int
    involuntary_switches: int

    def estimate_s(self, items: int) -> float:
        """What `items` pages would take at this pace, s."""
        return self.elapsed_s / self.items * items


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the demo measured, for people and for JSON.

    Attributes:
        items: pages there were.
        delay_s: how late each answer was, s.
        alone: some of them, one at a time.
        outcome: all of them, overlapped.
        answer: what the database knows.
        compared: the I/O models on requests that late, unless nobody wants to see them.
    """

    items: int
    delay_s: float
    alone: Alone
    outcome: Outcome
    answer: dict[str, Any]
    compared: Comparison | None = None


def run_demo(items: int, delay_s: float, common: Common, *, compare: bool) -> int:
    """Run the demo and return the exit code; nothing is left behind, whatever ends it."""
    for needed in ("tornado", "aiohttp"):
        if importlib.util.find_spec(needed) is None:
            raise Problem(f"the demo needs {needed}: pip install 'overlapped[standard,tornado]'")
    with Signals("before the demo was done") as signals, TemporaryDirectory(prefix="overlapped-demo-") as folder:
        # the third Ctrl-C leaves without unwinding; the site ends by itself with our end of its stdin
        signals.last_act = lambda: shutil.rmtree(folder, ignore_errors=True)
        compared = _compare(items, delay_s, common) if compare else None
        with running_site(delay_s) as site:
            urls = _urls(site)[:items]
            shown = _measure(urls, delay_s, Path(folder), common, signals)
            return _tell(replace(shown, compared=compared), common, signals)


def _compare(items: int, delay_s: float, common: Common) -> Comparison:
    """Every I/O model on as many requests, and its table."""
    with raised_as_problem():
        wanted = crawl.Wanted(requests=items, delay_s=delay_s, repeat=1)
        compared = crawl.compare(chosen_models([], "crawl"), wanted, running_line(common))
    if not common.json:
        write_stdout(f"{table(compared)}\n")
    return compared


def _measure(urls: list[str], delay_s: float, folder: Path, common: Common, signals: Signals) -> Shown:
    """Some pages one at a time, then all of them with the job, as `overlapped run` would run it."""
    (folder / "urls.txt").write_text("".join(f"{url}\n" for url in urls), encoding="utf-8")
    database = folder / "pages.db"
    flow = load_job(str(JOB), [str(folder / "urls.txt"), str(database)])
    alone = _one_at_a_time(urls, folder, common)
    if not common.quiet:
        write_stderr(f"overlapped: now all {len(urls)} overlapped\n")
    with make_view(common.view, "demo") as view:
        outcome = execute(flow, view=view, signals=signals, on_failure="keep", max_failures=None, lines=False)
    return Shown(len(urls), delay_s, alone, outcome, _answer(database))


def _tell(shown: Shown, common: Common, signals: Signals) -> int:
    """Print what was measured; the run is only good if every page is in the database."""
    code, error = conclude(shown.outcome, signals, common, summary=False)
    saved = shown.answer["pages"]
    if code == ExitCode.OK and saved != shown.items:
        code, error = ExitCode.FAILED, f"{shown.items} pages were fetched, {saved} are in the database"
        say(error)
    if common.json:
        write_stdout(json.dumps(_data(shown) | {"exit_code": int(code), "error": error}))
    elif shown.outcome.report is not None:
        write_stdout(_text(shown, shown.outcome.report))
    return code


def _urls(site: str) -> list[str]:
    """The addresses of all pages, from the site's index."""
    with closing(http.client.HTTPConnection(urlsplit(site).netloc, timeout=30)) as connection:
        paths = _get(connection, "/").decode().split("\n")
    urls = [site + path for path in paths if path]
    if not urls:
        raise Problem("this Python has no source files of its standard library, which the demo would serve")
    return urls


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Problem(f"the demo's site does not answer: {error}", ExitCode.FAILED) from error
    if response.status != 200:
        raise Problem(f"the demo's site answered {response.status} for {path}", ExitCode.FAILED)
    return body


def _one_at_a_time(urls: list[str], folder: Path, common: Common) -> Alone:
    """The same work in a plain loop: a blocking request on one kept connection, parse, save."""
    from overlapped.cli.jobs.crawl import Page, parse, save

    sample = urls[:: max(1, len(urls) // SAMPLE)][:SAMPLE]
    if not common.quiet:
        write_stderr(f"overlapped: {counted(len(sample), 'page')} one at a time, measured\n")
    address = urlsplit(urls[0]).netloc
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:

        def pages() -> Iterator[list[Counts]]:
            total = 0
            for url in sample:
                body = _get(connection, urlsplit(url).path)
                total += len(body)
                yield [parse(Page(url, body, total))]

        voluntary, involuntary = _switches()
        start = time.perf_counter()
        done = sum(save(str(folder / "alone.db"), pages()))
        elapsed_s = time.perf_counter() - start
    after = _switches()
    return Alone(done, elapsed_s, after[0] - voluntary, after[1] - involuntary)


def _switches() -> tuple[int, int]:
    """Voluntary and involuntary context switches of this process so far."""
    try:
        import resource
    except ImportError:  # Windows does not tell
        return 0, 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw, usage.ru_nivcsw


def _answer(database: Path) -> dict[str, Any]:
    """What the database knows now: totals, and the modules with the most functions."""
    names = ("pages", "lines", "functions", "classes", "bytes")
    with closing(sqlite3.connect(database)) as db:
        if not db.execute("SELECT * FROM sqlite_master WHERE name = 'pages'").fetchone():
            return dict.fromkeys(names, 0) | {"most_functions": []}  # the run broke before the first batch
        totals = db.execute(
            "SELECT count(*), total(lines), total(functions), total(classes), max(total_bytes) FROM pages"
        ).fetchone()
        top = db.execute("SELECT url, functions FROM pages ORDER BY functions DESC, url LIMIT ?", (TOP,)).fetchall()
    numbers: dict[str, Any] = {name: int(value or 0) for name, value in zip(names, totals, strict=True)}
    modules = [{"module": urlsplit(url).path.lstrip("/"), "functions": functions} for url, functions in top]
    return numbers | {"most_functions": modules}


def _data(shown: Shown) -> dict[str, Any]:
    """The demo as one JSON object."""
    estimate_s = shown.alone.estimate_s(shown.items)
    report = shown.outcome.report
    return {
        "comparison": shown.compared.to_dict() if shown.compared else None,
        "items": shown.items,
        "delay_s": shown.delay_s,
        "one_at_a_time": asdict(shown.alone) | {"estimate_for_all_s": estimate_s},
        "run": told(report),
        "speed_up": estimate_s / report.elapsed_s if report and report.elapsed_s else None,
        "answer": shown.answer,
    }


def _text(shown: Shown, report: Report) -> str:
    """The demo for people."""
    alone, answer, record = shown.alone, shown.answer, report.record
    pages = counted(shown.items, "page")
    estimate_s = alone.estimate_s(shown.items)
    first = f"one at a time  {counted(alone.items, 'page')} in {seconds(alone.elapsed_s)} (measured)"
    if alone.items < shown.items:
        basis = f"{shown.items / alone.items:g} times as many"
        first += f"; {shown.items} would take about {seconds(estimate_s)} (estimate: {basis})"
    times = f", about {estimate_s / report.elapsed_s:.2g} times as fast" if report.elapsed_s else ""
    totals = ", ".join(f"{answer[name]:,} {name}" for name in ("pages", "lines", "classes", "functions"))
    lines = [
        f"{pages} of this Python's library from 127.0.0.1, each answer {seconds(shown.delay_s)} late",
        "",
        first,
        f"overlapped     {pages} in {seconds(report.elapsed_s)} (measured){times}; no number was given",
        "",
        "context switches    voluntary  involuntary  a page",
        _switches_row("one at a time", alone.voluntary_switches, alone.involuntary_switches, alone.items),
        _switches_row("overlapped", record.voluntary_switches, record.involuntary_switches, shown.items),
        "",
        "where the time went",
        *(f"  {line}" for line in str(report).splitlines()),
        "",
        f"from the database: {totals}; the most functions are in",
        *(f"  {row['functions']:>5}  {row['module']}" for row in answer["most_functions"]),
        "",
        "this job is examples/crawl.py; yours: overlapped run --help",
        "next: overlapped compare http://localhost:8000/  (a page of your own under every I/O model)",
    ]
    return "\n".join(lines)


def _switches_row(name: str, voluntary: int, involuntary: int, items: int) -> str:
    return f"  {name:<16}  {voluntary:>9,}  {involuntary:>11,}  {(voluntary + involuntary) / items:>6.1f}"
