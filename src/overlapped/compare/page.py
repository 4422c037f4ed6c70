"""A comparison as a file: a picture, a page with the picture and all numbers, or plain data."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from typing import TYPE_CHECKING

from overlapped.compare.base import INSTALL, ComparisonError
from overlapped.errors import UsageError
from overlapped.report import files
from overlapped.report.plain import escape
from overlapped.report.svg import stacked, style

if TYPE_CHECKING:
    from overlapped.compare.section import Result

KINDS = (".html", ".svg", ".json")


def checked_path(path: str) -> str:
    """`path`, if a comparison can be written there; found out before anything is measured.

    Raises:
        ComparisonError: it cannot.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind not in KINDS:
        raise ComparisonError(f"{path}: a comparison is written as {', '.join(KINDS)}", is_usage=True)
    try:
        files.checked_path(path, "-o")
    except UsageError as error:
        raise ComparisonError(str(error), is_usage=True) from error
    if kind == ".html" and importlib.util.find_spec("jinja2") is None:
        raise ComparisonError(f"a page needs jinja2: {INSTALL}", is_usage=True)
    return path


def save(made: Result, path: str) -> None:
    """Write the comparison as what the path's ending says."""
    kind = os.path.splitext(path)[1].lower()
    if kind == ".json":
        text = json.dumps(made.to_dict(), indent=1) + "\n"
    elif kind == ".svg":
        text = str(stacked([section.picture for section in made.sections()]))
    else:
        text = page(made)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def page(made: Result) -> str:
    """One self-contained HTML page: nothing in it is fetched from anywhere."""
    import jinja2
    import markupsafe

    with open(os.path.join(os.path.dirname(__file__), "templates", "comparison.html"), encoding="utf-8") as file:
        template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(file.read())
    sections = made.sections()
    drawn = [section.picture.inline() for section in sections]
    return template.render(
        workload=made.workload,
        style=markupsafe.Markup(style()),  # noqa: S704 - both are made by report.svg, which escapes all text
        pictures=[markupsafe.Markup(picture) for picture in drawn],  # noqa: S704 - as above
        sections=sections,
        words=next((section.words for section in sections if section.words), ()),
        plain=escape,
        machine=machine(),
    )


def machine() -> str:
    """What the numbers were measured on."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = f"{cpus} CPU{'' if cpus == 1 else 's'}"
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores}"
