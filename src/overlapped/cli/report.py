"""`overlapped report FILE`: what a run measured, read back from its page or its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from overlapped import UsageError
from overlapped.cli.say import ExitCode, Problem, write_stdout
from overlapped.report import Report, files
from overlapped.report.data import NotARecord, to_dict

if TYPE_CHECKING:
    from overlapped.cli.commands import Common


def run_report(file: str, common: Common, *, failed: bool, trace: str | None, out: str | None) -> int:
    """Read the file, write what was asked for, and return the exit code."""
    try:
        save = files.saver(out, trace, option="")
        record = files.read(file)
    except UsageError as error:
        raise Problem(str(error)) from error
    except NotARecord as error:
        raise Problem(f"{file}: {error}") from error
    except OSError as error:
        raise Problem(f"{file}: {error.strerror or error}") from error
    report = Report(record)
    save(report)
    if failed:
        for failure in to_dict(record)["failures"]:
            write_stdout(json.dumps(failure))
    elif common.json:
        write_stdout(json.dumps(report.to_dict()))
    elif out is None and trace is None:
        write_stdout(str(report))
    return ExitCode.OK
