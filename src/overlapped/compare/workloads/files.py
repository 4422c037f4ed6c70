"""`files`: many small files, once from the disk and once from memory - what non-blocking I/O is not made for."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from overlapped.compare.comparison import Comparison, Several
from overlapped.compare.runner import LIMIT_S, Row, check_same, run_models
from overlapped.compare.server import page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlapped.compare.catalog import Model

FILE_BYTES = 16_384
"""Size of a file: a small page, a thumbnail; four pages of memory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        files: how many.
        concurrency: reads at once, where a model needs the number.
        repeat: runs of each model, cold and warm each.
    """

    files: int = 2_000
    concurrency: int = 16
    repeat: int = 3


def compare(models: Sequence[Model], wanted: Wanted, on_run: Callable[[str], None] = lambda _: None) -> Several:
    """All models on the same files, cold and warm; `on_run` is told what is run next.

    Raises:
        ComparisonError: a model failed, hangs, or read other bytes.
    """
    with TemporaryDirectory(prefix="overlapped-files-") as folder:
        paths = _write(folder, wanted.files)
        both = [
            _one("cold", paths, models, wanted, on_run, before=lambda: _forget(paths)),
            _one("warm", paths, models, wanted, on_run, before=lambda: _remember(paths)),
        ]
    return Several("files", both)


def _one(
    name: str,
    paths: list[str],
    models: Sequence[Model],
    wanted: Wanted,
    on_run: Callable[[str], None],
    *,
    before: Callable[[], None],
) -> Comparison:
    rows = [Row(model, wanted.files, model.lines("files")) for model in models]

    def order(_: Row) -> dict[str, Any]:
        before()
        work = {"paths": paths, "concurrency": wanted.concurrency}
        return {"kind": "Files", "function": "files", "work": work}

    run_models(
        rows,
        order,
        repeat=wanted.repeat,
        limit_s=lambda _: LIMIT_S,
        on_run=lambda what: on_run(f"{what}, {name}"),
    )
    check_same(rows, [hashlib.sha256(page(number, FILE_BYTES)).hexdigest()[:16] for number in range(wanted.files)])
    where = "not in memory: the kernel was asked to drop them" if name == "cold" else "in memory already"
    made = Comparison(
        workload=f"files, {name}",
        subject=f"{wanted.files:,} files of {FILE_BYTES // 1024} KiB, {where}; "
        f"{wanted.concurrency} at once where a model needs the number",
        noun="file",
        count=wanted.files,
        concurrency=wanted.concurrency,
        delay_s=math.nan,
        bound_s=math.nan,
        rows=rows,
    )
    found = [row for row in rows if row.runs and row.median.found is not None]
    made.notes.extend(f"{row.name} was given no number and ended with a limit of {row.concurrency}" for row in found)
    return made


def _write(folder: str, count: int) -> list[str]:
    """So many files, on the disk for certain: what is not written yet cannot be dropped from memory."""
    paths = [os.path.join(folder, f"{number}.txt") for number in range(count)]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(page(number, FILE_BYTES))
    if hasattr(os, "sync"):
        os.sync()
    return paths


def _forget(paths: list[str]) -> None:
    """Ask the kernel to drop the files from memory; a machine below it may still have them."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _remember(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            file.read()
