"""`overlapped report FILE`: what a run measured, read back from its page or its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from overlapped import UsageError
from overlapped.cli.say import ExitCode, Problem, write_stdout
from overlapped.report import Report, files
from overlapped.report.data import NotARecord
from overlapped.report.plain import plain_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.cli.common import Common


def run_report(file: str, common: Common, *, failed: bool, trace: str | None, out: str | None) -> int:
    """Read the file, write what was asked for, and return the exit code."""
    try:
        save = files.saver(out, trace, names=("-o", "--trace"))
        record = files.read(file)
    except UsageError as error:
        raise Problem(str(error)) from error
    except NotARecord as error:
        raise Problem(f"{file}: {error}") from error
    except OSError as error:
        raise Problem(f"{file}: {error.strerror or error}") from error
    if trace is not None and files.is_same_file(trace, file):
        raise Problem(f"--trace {trace!r}: the record would be lost, which stands in that file; write another name")
    report = Report(record)
    try:
        save(report)
        lines = list(_lines(report, failed=failed, as_json=common.json, as_text=out is None and trace is None))
    except OSError as error:
        wanted = " or ".join(filter(None, (out, trace)))
        raise Problem(f"{wanted}: cannot be written: {error.strerror or error}", ExitCode.FAILED) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # values that no run has
        raise Problem(f"{file}: this record cannot be shown: {plain_error(error)}; was it changed?") from error
    for line in lines:
        write_stdout(line)
    return ExitCode.OK


def _lines(report: Report, *, failed: bool, as_json: bool, as_text: bool) -> Iterator[str]:
    """What goes to stdout."""
    if failed:
        yield from map(json.dumps, report.to_dict()["failures"])
    elif as_json:
        yield json.dumps(report.to_dict(), allow_nan=False)
    elif as_text:
        yield str(report)
