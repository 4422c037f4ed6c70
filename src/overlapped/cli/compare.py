"""`overlapped compare`: the models on one workload, as a table, as JSON, as a picture."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from overlapped.cli.say import ExitCode, Problem, write_stderr, write_stdout
from overlapped.cli.signals import Signals
from overlapped.compare import page
from overlapped.compare.base import INSTALL, ComparisonError
from overlapped.compare.catalog import chosen_models
from overlapped.compare.table import table
from overlapped.compare.workloads import crawl, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlapped.cli.commands import Common


MOST_UNASKED = 100
"""Requests sent to another machine without asking."""


@contextmanager
def raised_as_problem() -> Iterator[None]:
    """What a comparison says as the command says it."""
    try:
        yield
    except ComparisonError as error:
        raise Problem(str(error), ExitCode.USAGE if error.is_usage else ExitCode.FAILED) from error


def running_line(common: Common) -> Callable[[str], None]:
    """A function that says on stderr what is run next, unless nobody wants to know."""
    return lambda what: None if common.quiet else write_stderr(f"overlapped: {what}\n")


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


def run_compare(
    names: Sequence[str], address: str | None, wanted: crawl.Wanted, common: Common, *, yes: bool, out: str | None
) -> int:
    """Compare the models, on our server or on the page at `address`, and return the exit code."""
    if importlib.util.find_spec("tornado") is None:
        raise Problem(f"the server of the comparison needs tornado: {INSTALL}")
    with Signals(), raised_as_problem():
        if out is not None:
            page.checked_path(out)
        models = chosen_models(names, "crawl")
        if address is None:
            made = crawl.compare(models, wanted, running_line(common))
        else:
            _ask(url.checked_url(address), url.total(models, wanted), yes=yes)
            made = url.compare(models, address, wanted, running_line(common))
        if out is not None:
            page.save(made, out)
        write_stdout(json.dumps(made.to_dict()) if common.json else table(made))
    return ExitCode.OK
