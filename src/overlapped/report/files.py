"""Reports and traces as files: written when a run has ended, and read back."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from overlapped._engine.failure import add_note
from overlapped.errors import UsageError
from overlapped.report.data import NotARecord, from_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlapped.record import RunRecord
    from overlapped.report.report import Report

DATA: Final = '<script type="application/json" id="overlapped-run">'
"""Where the record begins in a report (templates/run.html)."""

MOST_BYTES: Final = 200 * 2**20
"""A larger file is no report of ours, and would only fill the memory."""


def checked_path(path: str | os.PathLike[str], name: str) -> str:
    """`path` in full, if a file can be written there; found out before anything runs, which may go to another folder.

    Raises:
        UsageError: it cannot.
    """
    try:
        path = os.fsdecode(path)
    except TypeError:
        raise UsageError(f"{name}: {name} must be a path, got {path!r}") from None
    if "\0" in path:
        raise UsageError(f"{name} {path!r}: a path must be without NUL characters; write another name")
    if not os.path.basename(path) or os.path.isdir(path):
        raise UsageError(f"{name} {path!r}: cannot be written: it names no file; write the file's name, too")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"{name} {path!r}: there is no folder {folder}")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise UsageError(f"{name} {path!r}: cannot be written")
    return os.path.abspath(path)


def is_same_file(path: str, other: str) -> bool:
    """True if what is written to one is lost by writing to the other; a device such as /dev/null loses nothing."""
    is_file = os.path.isfile(path) or not os.path.exists(path)
    return is_file and os.path.realpath(path) == os.path.realpath(other)


def need_jinja(name: str) -> None:
    """Say what to install, before anything runs.

    Raises:
        UsageError: jinja2 is missing.
    """
    if not has_jinja():
        raise UsageError(f"{name} needs jinja2; write pip install 'overlapped[standard]'")


def has_jinja() -> bool:
    """True if pages can be made."""
    return importlib.util.find_spec("jinja2") is not None


def saver(
    report: str | os.PathLike[str] | None,
    trace: str | os.PathLike[str] | None,
    *,
    names: tuple[str, str] = ("report", "trace"),
) -> Callable[[Report], None]:
    """What writes these files of a run that has ended.

    Args:
        report: where the page goes.
        trace: where the trace goes.
        names: of the two, as the user wrote them.

    Raises:
        UsageError: one of them cannot be written, or jinja2 is missing.
    """
    if report is not None:
        report = checked_path(report, names[0])
        need_jinja(names[0])
    if trace is not None:
        trace = checked_path(trace, names[1])
    if report is not None and trace is not None and is_same_file(report, trace):
        raise UsageError(
            f"{names[0]} and {names[1]} must be two files, got {report!r} for both: one would overwrite the "
            f"other; write another name for the trace"
        )

    def save(finished: Report) -> None:
        if report is not None:
            save_page(finished.record, os.fspath(report))
        if trace is not None:
            save_trace(finished.record, os.fspath(trace))

    return save


@contextmanager
def saved(save: Callable[[Report], None], report: Callable[[], Report]) -> Iterator[None]:
    """Around a run: its files are written however it ends. If they cannot be, what ended it is raised, not that."""
    try:
        yield
    except BaseException as error:
        try:
            save(report())
        except Exception as unwritten:  # noqa: BLE001 - whatever it is, what ended the run counts more
            add_note(error, f"overlapped: the report or trace could not be written: {unwritten}")
        raise
    save(report())


def save_page(record: RunRecord, path: str) -> None:
    """Write the report."""
    from overlapped.report.page import page

    text = page(record)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def save_trace(record: RunRecord, path: str) -> None:
    """Write the trace; with a name that ends in .gz, compressed."""
    from overlapped.report.trace import trace

    text = json.dumps(trace(record), separators=(",", ":"))
    if path.endswith(".gz"):
        with gzip.open(path, "wt", encoding="utf-8") as packed:
            packed.write(text)
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def read(path: str) -> RunRecord:
    """The record that lies in a report, or in a JSON file.

    Raises:
        NotARecord: there is none.
        OSError: the file cannot be read.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read(MOST_BYTES)
    begin = text.rfind(DATA)
    if begin >= 0:
        text = text[begin + len(DATA) : text.find("</script>", begin)]
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NotARecord("there is no record of a run in it") from None
    if isinstance(data, dict) and "schema" not in data and isinstance(data.get("run"), dict):
        data = data["run"]  # what `overlapped run --json` writes
    elif isinstance(data, dict) and data.get("exit_code") and data.get("run") is None:
        raise NotARecord(f"it tells of a command that ran no flow: {data.get('error')}")
    return from_dict(data)


def _no_constant(name: str) -> None:
    """NaN and Infinity are no JSON, and no value of a run."""
    raise ValueError(name)
