"""A file with one JSON value a line."""

from __future__ import annotations

import json
import os
import stat
import warnings
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from overlapped._engine.failure import short
from overlapped.errors import UsageError
from overlapped.sinks.base import (
    IfExists,
    already_there,
    check_folder,
    check_if_exists,
    check_path,
    refusal,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO

TAIL_BYTES = 64 * 1024 * 1024
"""How far back the end of a file is read for its last line, when it lacks a newline."""


@dataclass(frozen=True, slots=True)
class Jsonl:
    """Write every item as one line of JSON (UTF-8), in the order in which items arrive.

    Mappings, dataclasses and NamedTuples become JSON objects (a NamedTuple *inside* an item
    becomes an array); lists, text, numbers, booleans and None become what they are in JSON. Any
    other item - bytes, sets, dates, NaN - becomes a failure of that item alone, with the line to
    write instead.

    A batch is handed to the operating system as soon as it is written; the file is forced to the
    disk when the run ends. If a write fails (disk full), the file is cut back to the end of the
    last whole batch and the run ends with that error.

    Args:
        path: the file; its folder must exist.
        if_exists: "fail" (default) refuses a file that is not empty, "append" adds to it,
            "replace" empties it. A file to append to that ends without a newline gets one if its
            last line is whole. If it was torn (a process was killed while writing it) it is cut
            off with a `RuntimeWarning` that shows it; a file that does not look like JSON lines is
            refused.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "out.jsonl")
        >>> writer = Jsonl(path).open()
        >>> writer.write([{"n": 1}, {"n": 2}])
        {}
        >>> writer.close(ok=True)
        >>> print(path.read_text(), end="")
        {"n": 1}
        {"n": 2}
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    if_exists: IfExists = "fail"

    def __post_init__(self) -> None:
        check_path("Jsonl", self.path)
        check_if_exists("Jsonl", self.if_exists)

    def describe(self) -> str:
        """Such as `Jsonl('out.jsonl')`."""
        return f"Jsonl({os.fspath(self.path)!r})"

    def open(self) -> JsonlWriter:
        """Open the file.

        Raises:
            UsageError: the file holds something and `if_exists` does not say what to do with it.
            OSError: it cannot be opened.
        """
        check_folder(self.describe(), self.path)
        file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - the writer closes it
        try:
            return JsonlWriter(self.describe(), file, _prepared(self, file))
        except BaseException:
            file.close()
            raise


class JsonlWriter:
    """The opened file of a `Jsonl`."""

    def __init__(self, name: str, file: FileIO, length: int | None) -> None:
        self._name = name
        self._file = file
        self._length = length  # None: a pipe or a device, which cannot be cut

    def write(self, items: Sequence[object]) -> dict[int, Exception]:
        """Append one line an item; the items without a JSON form are returned."""
        refused: dict[int, Exception] = {}
        lines: list[bytes] = []
        for index, item in enumerate(items):
            try:
                lines.append(to_json(item).encode())
            except Exception as error:  # noqa: BLE001 - the item's own code (a mapping's) runs in here
                refused[index] = refusal(self._name, item, error)
        if lines:
            lines.append(b"")
            self._append(b"\n".join(lines))
        return refused

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except BaseException as error:
            if self._length is not None:
                with suppress(OSError):  # the first error tells more than this one
                    self._file.truncate(self._length)
            error.add_note(f"sink: {self._name}; the lines of its last batch were taken back")
            raise
        if self._length is not None:
            self._length += len(data)

    def position(self) -> int:
        """The file's length in bytes, all of it on disk."""
        if self._length is None:
            raise UsageError(f"{self._name} is not a regular file: it has no position")
        getattr(os, "fdatasync", os.fsync)(self._file.fileno())  # macOS and Windows lack fdatasync
        return self._length

    def close(self, ok: bool) -> None:
        """Force the file to the disk and close it; what was written stays, `ok` or not."""
        try:
            if self._length is not None:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _prepared(spec: Jsonl, file: FileIO) -> int | None:
    """Do what `if_exists` says and return the length to append at."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None
    if not status.st_size:
        return 0
    if spec.if_exists == "fail":
        raise already_there(spec.describe(), f"the file holds {status.st_size:,} bytes already")
    if spec.if_exists == "replace":
        file.truncate(0)
        return 0
    _end_last_line(spec, file, status.st_size)
    return os.fstat(file.fileno()).st_size


def _end_last_line(spec: Jsonl, file: FileIO, size: int) -> None:
    """Make sure that the file ends with a newline: or the next line is glued to a torn one."""
    before, last = _last_lines(spec.path, size)
    if not last:
        return
    if _is_whole(last):
        file.write(b"\n")
        return
    if before is None or not _is_json(before):
        raise UsageError(
            f"{spec.describe()}: the file's last line is {short(last)}, which is not JSON, and nothing "
            'shows that the file was written as JSON lines; remove it or write if_exists="replace"'
        )
    file.truncate(size - len(last))
    warnings.warn(
        f"{spec.describe()}: the last line was torn and is cut off: {short(last)}",
        RuntimeWarning,
        stacklevel=2,
    )


def _last_lines(path: str | os.PathLike[str], size: int) -> tuple[bytes | None, bytes]:
    """The last whole line (None if there is none) and what stands after its newline."""
    tail = b""
    step = 4096
    with open(path, "rb") as file:
        while len(tail) < size:
            length = min(size, max(step, 2 * len(tail)))
            file.seek(size - length)
            tail = file.read(length)
            if tail.endswith(b"\n"):
                return None, b""
            if tail.count(b"\n") >= 2 or length >= TAIL_BYTES:
                break
    head, newline, last = tail.rpartition(b"\n")
    return (head.rpartition(b"\n")[2] if newline else None), last


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _is_whole(line: bytes) -> bool:
    """True if no part is missing. A number may be: `12` can be the beginning of `123`."""
    return _is_json(line) and not line.strip()[-1:].isdigit()
