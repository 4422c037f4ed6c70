"""`overlapped compare`: the models on one workload, as a table, as JSON, as a picture."""

from __future__ import annotations

import importlib.util
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from overlapped.cli.say import ExitCode, Problem, write_stderr, write_stdout
from overlapped.cli.signals import Signals
from overlapped.compare.base import INSTALL, ComparisonError
from overlapped.compare.catalog import chosen_models
from overlapped.compare.table import table
from overlapped.compare.workloads import crawl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlapped.cli.commands import Common


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


def run_compare(names: Sequence[str], wanted: crawl.Wanted, common: Common) -> int:
    """Compare the models and return the exit code."""
    if importlib.util.find_spec("tornado") is None:
        raise Problem(f"the server of the comparison needs tornado: {INSTALL}")
    with Signals(), raised_as_problem():
        made = crawl.compare(chosen_models(names, "crawl"), wanted, on_run=running_line(common))
        write_stdout(json.dumps(made.to_dict()) if common.json else table(made))
    return ExitCode.OK
