"""Commands and options as click reads them; what a command does is imported when it is called."""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import click

from overlapped.cli.common import common_options, merged
from overlapped.report.plain import cut

TOP_HELP = """Overlap all the waiting with all the work, and find the numbers by measuring.

\b
Examples:
  overlapped demo                           see it work, in under 30 seconds
  overlapped compare                        every I/O model on the same work
  overlapped run job.py                     run the flow of a file
  overlapped run job.py:small -- urls.txt   one flow by name, with arguments

\b
Exit codes: 0 all items done, 1 failed, 2 bad usage or input, 3 finished but
some failed, 129 hung up, 130 Ctrl-C, 141 nobody reads stdout, 143 terminated.
Only data is written to stdout; everything else goes to stderr.
"""

RUN_HELP = """Run the flow of a Python file.

JOB is the file, and the flow's name if it has more than one: a Flow, or a
function without parameters that returns one. ARGS become the file's sys.argv.
If the flow has no sink, its results are written to stdout as JSON lines. With
--json the run's record is, and what the job prints goes to stderr.

\b
Examples:
  overlapped run job.py
  overlapped run job.py:small -- urls.txt
  overlapped run --report run.html job.py
  overlapped run --dashboard job.py
  overlapped run --json --max-failures 10 job.py

Ctrl-C takes no more items and finishes what is in flight; a second one
cancels that; a third one leaves at once. SIGTERM and SIGHUP are the first
with 10 s grace.
"""

DEMO_HELP = """Every I/O model on 400 slow requests, then a real job.

First `overlapped compare`, one run of each model. Then the job: fetch and
parse 400 slow pages, one at a time and overlapped.

Starts a small site on 127.0.0.1 that serves this Python's standard library,
each answer late; measures 20 pages one at a time, then runs the flow.
Needs nothing from the network and leaves nothing behind.

\b
Examples:
  overlapped demo
  overlapped demo --items 100 --delay 0.05
"""

REPORT_HELP = """Read back what a run measured.

FILE is a page written by --report, or the output of --json. The summary is
written to stdout, or with --json the whole record.

\b
Examples:
  overlapped report run.html
  overlapped report run.html --failed
  overlapped report run.html --trace run.json.gz
"""

COMPARE_HELP = """Run the same work under every I/O model, side by side.

Blocking calls, polling, readiness, completion (io_uring), an event loop of
generators, threads, gevent, Tornado, aiohttp, asyncio, uvloop, overlapped:
each in a fresh process against a server on 127.0.0.1 whose answers come late,
or against a page of your own. Every model must bring the same bytes, or the
command fails.

\b
Examples:
  overlapped compare
  overlapped compare --requests 1000 --concurrency 300 --repeat 5
  overlapped compare -m blocking -m polling -m readiness --json
  overlapped compare -o models.html -o models.json
  overlapped compare --workload files
  overlapped compare --workload hash-and-save
  overlapped compare --workload sweep      how many in flight?
  overlapped compare --workload pipeline   how many in a batch?
  overlapped compare http://localhost:8000/
"""


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from overlapped._version import __version__

        click.echo(f"overlapped {__version__} on Python {sys.version.split()[0]}")
        context.exit()


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 80, "color": False}
# color: click itself does not look at NO_COLOR


@click.group(help=TOP_HELP, context_settings=_SETTINGS)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@partial(common_options, hidden=True)
@click.pass_context
def overlapped(context: click.Context, /, **common: Any) -> None:
    """The group; its help is TOP_HELP."""
    context.obj = common


class _Seconds(click.FloatRange):
    """A range that nan is outside of: click compares, and nan is neither below nor above anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


FREE_PORT = "free"
"""What `--dashboard` without a port stands for."""


class _WithDashboard(click.Command):
    """`--dashboard` may stand alone: click would take the word behind it, the job, for its port."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The port that was left out is written out."""
        ours = args.index("--") if "--" in args else len(args)
        words = [f"{word}={FREE_PORT}" if word == "--dashboard" else word for word in args[:ours]]
        return super().parse_args(ctx, words + args[ours:])


def _port(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bool | int:
    """The port of `--dashboard=PORT`; True for any that is free."""
    if value is None or value == FREE_PORT:
        return value is not None
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value[:6]) <= 65_535:
        raise click.BadParameter(f"{cut(value, 20)!r} is no port from 1 to 65535; --dashboard alone takes a free one.")
    return int(value)


@overlapped.command(cls=_WithDashboard, help=RUN_HELP, short_help="Run the flow of a Python file.")
@common_options
@click.option(
    "--on-failure",
    type=click.Choice(["keep", "raise"]),
    default="keep",
    show_default=True,
    help="keep: count failed items and go on; raise: stop at the first.",
)
@click.option("--max-failures", type=click.IntRange(min=0), metavar="N", help="Stop when more than N items failed.")
@click.option("--report", metavar="FILE.html", help="Write a page of the run: what set its pace, and pictures.")
@click.option("--trace", metavar="FILE.json[.gz]", help="Write Chrome trace events (ui.perfetto.dev opens them).")
@click.option("--dashboard", metavar="[=PORT]", callback=_port, help="Serve a live page on 127.0.0.1 while it runs.")
@click.argument("job", metavar="JOB.py[:flow]")
@click.argument("args", nargs=-1, metavar="[-- ARGS]")
def run(
    job: str,
    args: tuple[str, ...],
    *,
    on_failure: str,
    max_failures: int | None,
    report: str | None,
    trace: str | None,
    dashboard: bool | int,
    **common: Any,
) -> int:
    """`overlapped run`."""
    from overlapped.cli.run import run_job

    if max_failures is not None and on_failure == "raise":
        raise click.UsageError("--max-failures goes with --on-failure keep; raise stops at the first failure")
    return run_job(
        job,
        args,
        merged(common),
        on_failure=on_failure,
        max_failures=max_failures,
        report=report,
        trace=trace,
        dashboard=dashboard,
    )


@overlapped.command(name="report", help=REPORT_HELP, short_help="What a run's report says.")
@common_options
@click.option("--failed", is_flag=True, help="The failed items, one JSON object a line.")
@click.option("--trace", metavar="FILE.json[.gz]", help="Write Chrome trace events.")
@click.option("-o", "out", metavar="FILE.html", help="Write the page anew.")
@click.option("--text", is_flag=True, help="The summary; what happens without options, too.")
@click.argument("file", metavar="FILE")
def report_(file: str, failed: bool, trace: str | None, out: str | None, text: bool, **common: Any) -> int:
    """`overlapped report`."""
    from overlapped.cli.report import run_report

    given = merged(common)
    if failed + text + given.json > 1:
        raise click.UsageError("--text, --json and --failed exclude each other")
    return run_report(file, given, failed=failed, trace=trace, out=out)


@overlapped.command(help=DEMO_HELP, short_help="See it work, in under 30 seconds.")
@common_options
@click.option("--items", type=click.IntRange(1, 400), default=400, show_default=True, help="Pages to fetch.")
@click.option(
    "--delay",
    type=_Seconds(min=0, max=10),
    default=0.1,
    show_default=True,
    metavar="S",
    help="How late each answer is.",
)
@click.option("--compare/--no-compare", default=True, show_default=True, help="Begin with every I/O model.")
def demo(items: int, delay: float, compare: bool, **common: Any) -> int:
    """`overlapped demo`."""
    from overlapped.cli.demo import run_demo

    return run_demo(items, delay, merged(common), compare=compare)


@overlapped.command(help=COMPARE_HELP, short_help="Every I/O model on the same work.")
@common_options
@click.option(
    "--workload",
    type=click.Choice(["crawl", "files", "hash-and-save", "sweep", "pipeline"]),
    default="crawl",
    show_default=True,
)
@click.option("-m", "--model", "models", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="400; 100 with URL; 2000 files; 200 hashes; 1000 in a sweep",
    help="Pieces of work.",
)
@click.option(
    "--delay",
    "delay_s",
    type=_Seconds(min=0, max=60),
    show_default="0.1; 0.01 in a pipeline",
    metavar="S",
    help="How late each answer is.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    show_default="100; 10 with URL; 16 files; 1000",
    metavar="C",
    help="In flight, for models that need the number; the most of a sweep.",
)
@click.option("--repeat", type=click.IntRange(1, 100), show_default="3; 1 in a pipeline", help="Runs of each model.")
@click.option("--whole", is_flag=True, help="Measure blocking on all requests too, not on a part.")
@click.option("--yes", is_flag=True, help="Send more than 100 requests to another machine without asking.")
@click.option(
    "-o",
    "outs",
    multiple=True,
    metavar="FILE",
    help="Also write a page (.html), a picture (.svg) or data (.json); may be repeated.",
)
@click.option(
    "--postgres",
    default="host=127.0.0.1 dbname=test",
    show_default=True,
    metavar="DSN",
    help="PostgreSQL of a pipeline: a table is made and dropped there.",
)
@click.option(
    "--redis",
    default="redis://127.0.0.1:6379",
    show_default=True,
    metavar="URL",
    help="Redis of a pipeline: keys overlapped:compare:* are set and deleted there.",
)
@click.argument("url", required=False)
def compare(**given: Any) -> int:
    """`overlapped compare`."""
    from overlapped.cli.compare import Asked, run_compare

    asked = Asked(**{name: given.pop(name) for name in Asked.__dataclass_fields__})
    return run_compare(asked, merged(given))
