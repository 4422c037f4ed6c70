"""`overlapped compare`: one workload under every model, as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from overlapped.cli.say import ExitCode, Problem, say, write_stderr, write_stdout
from overlapped.cli.signals import Signals
from overlapped.compare import page
from overlapped.compare.base import ComparisonError
from overlapped.compare.catalog import chosen_models
from overlapped.compare.workloads import crawl, files, hash_and_save, pipeline, sweep, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlapped.cli.common import Common
    from overlapped.compare.section import Result

MOST_UNASKED = 100
"""Requests sent to another machine without asking."""


MOST_REQUESTS = 1_000_000
"""Of each, address, times and digest are held until all models have run: 1 kB."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say; None stands for what the workload finds right.

    Attributes:
        workload: its name.
        models: names of the models, none for all.
        url: a page of the user's, instead of our server.
        requests: pieces of work.
        delay_s: how late each answer is, s.
        concurrency: pieces in flight, where a model needs the number.
        repeat: runs of each model.
        whole: nothing is measured on a part.
        yes: more than `MOST_UNASKED` requests may be sent to another machine.
        outs: files to write.
        postgres: where PostgreSQL is, as libpq reads it.
        redis: where Redis is, a URL.
    """

    workload: str
    models: tuple[str, ...]
    url: str | None
    requests: int | None
    delay_s: float | None
    concurrency: int | None
    repeat: int | None
    whole: bool
    yes: bool
    outs: tuple[str, ...]
    postgres: str
    redis: str


def run_compare(asked: Asked, common: Common) -> int:
    """Compare and return the exit code."""
    if asked.requests is not None and asked.requests > MOST_REQUESTS:
        raise Problem(f"--requests {asked.requests}: at most {MOST_REQUESTS:,} fit into memory; write a smaller number")
    if asked.url is not None and asked.workload != "crawl":
        raise Problem(f"a page of your own goes with the workload crawl, not with {asked.workload}")
    with Signals("before the comparison was done"), raised_as_problem():
        outs = [page.checked_path(path) for path in dict.fromkeys(asked.outs)]
        made = WORKLOADS[asked.workload](asked, running_line(common))
        write_stdout(json.dumps(made.to_dict()) if common.json else made.text())
        saved = [_saved(made, path) for path in outs]
    return ExitCode.OK if all(saved) else ExitCode.FAILED


def _saved(made: Result, path: str) -> bool:
    """Write a file; a full disk is no reason to lose the others."""
    try:
        page.save(made, path)
    except OSError as error:
        say(f"{path}: cannot be written: {error.strerror or error}")
        return False
    return True


@contextmanager
def raised_as_problem() -> Iterator[None]:
    """What a comparison says as the command says it."""
    try:
        yield
    except ComparisonError as error:
        raise Problem(str(error), ExitCode.USAGE if error.is_usage else ExitCode.FAILED) from error


def running_line(common: Common) -> Callable[[str], None]:
    """A function that says on stderr what is run next, unless nobody wants to know."""
    return lambda what: None if common.view == "none" else write_stderr(f"overlapped: {what}\n")


def _crawl(asked: Asked, on_run: Callable[[str], None]) -> Result:
    models = chosen_models(asked.models, "crawl")
    is_ours = asked.url is None
    wanted = crawl.Wanted(
        requests=asked.requests or (400 if is_ours else 100),
        delay_s=0.1 if asked.delay_s is None else asked.delay_s,
        concurrency=asked.concurrency or (100 if is_ours else 10),
        repeat=asked.repeat or 3,
        whole=asked.whole,
    )
    if asked.url is None:
        return crawl.compare(models, wanted, on_run)
    _ask(url.checked_url(asked.url), url.total(models, wanted), yes=asked.yes)
    return url.compare(models, asked.url, wanted, on_run)


def _ask(address: str, requests: int, *, yes: bool) -> None:
    """Somebody else's server is not sent many requests by mistake."""
    if yes or requests <= MOST_UNASKED or url.is_here(address):
        return
    what = f"this sends up to {requests:,} requests to {urlsplit(address).netloc}"
    if not sys.stdin.isatty():
        raise Problem(f"{what}; --yes says that you may do that; --requests, --repeat and -m make it fewer")
    import click

    if not click.confirm(f"overlapped: {what}; may you do that?", err=True):
        raise Problem("nothing was sent")


def _files(asked: Asked, on_run: Callable[[str], None]) -> Result:
    wanted = files.Wanted(**_given(files=asked.requests, concurrency=asked.concurrency, repeat=asked.repeat))
    return files.compare(chosen_models(asked.models, "files"), wanted, on_run)


def _hash_and_save(asked: Asked, on_run: Callable[[str], None]) -> Result:
    _without_models(asked, "ways of one job")
    wanted = hash_and_save.Wanted(
        **_given(items=asked.requests, repeat=asked.repeat),
        delay_s=0.1 if asked.delay_s is None else asked.delay_s,
        whole=asked.whole,
    )
    return hash_and_save.compare(wanted, on_run)


def _sweep(asked: Asked, on_run: Callable[[str], None]) -> Result:
    _without_models(asked, "numbers in flight")
    wanted = sweep.Wanted(
        **_given(requests=asked.requests, most=asked.concurrency, repeat=asked.repeat),
        delay_s=0.1 if asked.delay_s is None else asked.delay_s,
        whole=asked.whole,
    )
    return sweep.compare(wanted, on_run)


def _pipeline(asked: Asked, on_run: Callable[[str], None]) -> Result:
    _without_models(asked, "sizes of batches")
    if asked.concurrency is not None:
        raise Problem("pipeline has one call in flight, so that nothing but the size differs: leave out --concurrency")
    wanted = pipeline.Wanted(
        rows=asked.requests or pipeline.MOST_ROWS,
        repeat=asked.repeat or 1,
        delay_s=0.01 if asked.delay_s is None else asked.delay_s,
        postgres=asked.postgres,
        redis=asked.redis,
    )
    return pipeline.compare(wanted, on_run)


def _without_models(asked: Asked, what: str) -> None:
    if asked.models:
        raise Problem(f"{asked.workload} compares {what}, not models: leave out -m")


def _given(**options: int | None) -> dict[str, int]:
    """Those options that were given: the others have their defaults in the workload."""
    return {name: value for name, value in options.items() if value is not None}


WORKLOADS: dict[str, Callable[[Asked, Callable[[str], None]], Result]] = {
    "crawl": _crawl,
    "files": _files,
    "hash-and-save": _hash_and_save,
    "sweep": _sweep,
    "pipeline": _pipeline,
}
