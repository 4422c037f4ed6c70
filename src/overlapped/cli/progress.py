"""How far a run is, on stderr: a few snapshots a second are drawn, so an item costs nothing."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import unicodedata
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO, cast

from overlapped.cli.say import write_stderr
from overlapped.report.plain import escape
from overlapped.report.speed import SURE_S, Speed, clock, taken
from overlapped.report.text import calling, name_of
from overlapped.report.verdict import verdict

if TYPE_CHECKING:
    from overlapped.record import RunRecord, StageRecord

MOST_STAGES = 8
"""Stages drawn at most: with the headings at most 12 lines (evidence/ux.md 3.1)."""
BAR_CELLS = 20


class View(Protocol):
    """Shows snapshots of a run; a scope that leaves the terminal as it was.

    Attributes:
        every_s: seconds between two snapshots it wants; 0 for none at all.
    """

    every_s: float

    def show(self, record: RunRecord) -> None:
        """Draw one snapshot."""
        ...

    def clear(self) -> None:
        """Take away what is drawn: other words follow."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def make_view(kind: str, title: str) -> View:
    """The view for `--progress kind`: "auto" draws on a terminal and writes plain lines elsewhere."""
    if kind == "none":
        return Silent()
    if kind == "auto" and _is_terminal(sys.stderr):
        return Block(title)
    return Plain()


def _is_terminal(stream: TextIO | None) -> bool:
    if os.environ.get("TERM", "") == "dumb":
        return False
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False  # closed


def _is_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


class Silent:
    """Shows nothing."""

    every_s = 0.0

    def show(self, record: RunRecord) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class Plain(Silent):
    """One plain line each 10 s, for log files: no carriage return, no escape sequence."""

    every_s = 10.0

    def __init__(self) -> None:
        self._speed = Speed()

    def show(self, record: RunRecord) -> None:
        """Write the line of one snapshot."""
        write_stderr(plain_line(record, self._speed) + "\n")


def plain_line(record: RunRecord, speed: Speed) -> str:
    """A snapshot as one line that a log can keep and grep can read."""
    per_s, _ = speed.of(record)
    parts = [f"overlapped: {record.elapsed_s:.0f}s {record.items} items {per_s or '0/s'}"]
    for stage in calling(record):
        slots = f"in-flight {stage.in_flight} limit {stage.limit} ahead {stage.ahead}"
        parts.append(f"{name_of(stage)} {stage.items_out} {slots}")
    retried = sum(stage.retries for stage in record.stages)
    parts.append(f"failed {record.failed} retried {retried} mem {record.peak_rss_bytes / 2**20:.0f}MiB")
    if (left_s := speed.left_s(record)) is not None:
        parts.append(f"eta {clock(left_s)}")
    return " | ".join(parts)


def frame(record: RunRecord, speed: Speed, title: str, columns: int, *, ascii_only: bool = False) -> list[str]:
    """A snapshot as the lines of a block no wider than `columns` - 1."""
    per_s, per_stage = speed.of(record)
    head = [escape(title), f"{record.elapsed_s:.1f} s", f"{record.items:,} items", per_s or "0/s"]
    head += [f"{record.failed:,} failed"] if record.failed else []
    head += _how_far(record, speed, ascii_only=ascii_only)
    shown = calling(record)
    stages = [pair for pair in zip(record.stages, per_stage, strict=True) if pair[0] in shown]
    rows: list[tuple[str, ...]] = [("stage", "done", "rate", "failed", "in flight", "limit", "ahead")]
    rows += [_row(stage, now or "0/s") for stage, now in stages[:MOST_STAGES]]
    if ascii_only:  # the stream would make six letters of one, and the line longer than the terminal
        head, rows = list(map(_ascii, head)), [tuple(map(_ascii, row)) for row in rows]
    lines = ["  ".join(head), *_table(rows, columns)]
    if len(stages) > MOST_STAGES:
        lines.append(f"and {len(stages) - MOST_STAGES} more stages")
    lines.append(_last_line(record, speed, ascii_only=ascii_only))
    return [_fit(line, columns - 1) for line in lines]


def _how_far(record: RunRecord, speed: Speed, *, ascii_only: bool) -> list[str]:
    """The share of the source that is done, and the time that is left, where that is known."""
    if not record.source_items:
        return []
    share = min(1.0, taken(record) / record.source_items)
    full, part = ("#", "") if ascii_only else ("\u2588", " \u258f\u258e\u258d\u258c\u258b\u258a\u2589")
    eighths = int(share * BAR_CELLS * 8)
    bar = full * (eighths // 8) + (part[eighths % 8].strip() if part else "")
    words = [f"{bar:<{BAR_CELLS}} {share:.0%}"]
    left_s = speed.left_s(record)
    return words + ([f"ETA {clock(left_s)}"] if left_s is not None else [])


def _last_line(record: RunRecord, speed: Speed, *, ascii_only: bool) -> str:
    """Rate over the last half minute, memory, and what sets the pace so far."""
    sparks = speed.sparks(ascii_only=ascii_only)
    parts = [f"rate {sparks}"] if sparks else []
    parts.append(f"memory {record.peak_rss_bytes / 2**20:,.0f} MiB")
    if record.elapsed_s >= SURE_S and (found := verdict(record)) and found[0].kind not in ("none", "few"):
        parts.append(f"pace: {found[0].says}")
    return _ascii("  ".join(parts)) if ascii_only else "  ".join(parts)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _row(stage: StageRecord, per_s: str) -> tuple[str, ...]:
    low, high = stage.limit_range
    limit = f"{stage.limit}" + (f" ({low}-{high})" if low != high else "")
    failed = f"{stage.failed:,}" + (f" +{stage.retries:,} retried" if stage.retries else "")
    return (
        name_of(stage),
        f"{stage.items_out:,}",
        per_s,
        failed,
        f"{stage.in_flight:,}",
        limit,
        f"{stage.ahead:,}",
    )


def _table(rows: list[tuple[str, ...]], columns: int) -> list[str]:
    """Columns side by side; a narrow terminal loses the last ones, never done, rate and failed."""
    if len(rows) == 1:
        return []
    widths = [max(map(_wide, column)) for column in zip(*rows, strict=True)]
    shown = len(widths)
    while shown > 4 and sum(widths[:shown]) + 2 * (shown - 1) >= columns:
        shown -= 1
    return [
        "  ".join(
            cell + " " * (width - _wide(cell)) if index == 0 else " " * (width - _wide(cell)) + cell
            for index, (cell, width) in enumerate(zip(row[:shown], widths[:shown], strict=True))
        )
        for row in rows
    ]


def _wide(text: str) -> int:
    """Columns a text takes on a terminal: East Asian letters take two."""
    return len(text) if text.isascii() else sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _fit(text: str, columns: int) -> str:
    while text and _wide(text) > columns:
        text = text[:-1]
    return text


class Block:
    """A block of lines on a terminal, redrawn in place with one write.

    What others print meanwhile stays above it: while the view is open, `sys.stdout` and
    `sys.stderr` (where they are terminals) take the block away before they write.
    """

    every_s = 0.2

    def __init__(self, title: str) -> None:
        self._title = title
        self._speed = Speed()
        self._stream = sys.stderr
        self._ascii_only = not _is_unicode(self._stream)
        self._drawn = 0
        self._lock = threading.RLock()
        self._mid_line = False
        self._before: tuple[Any, Any] = (sys.stdout, sys.stderr)

    def __enter__(self) -> Self:
        self._before = (sys.stdout, sys.stderr)
        if _is_terminal(sys.stdout):
            sys.stdout = cast("TextIO", _Above(sys.stdout, self))
        sys.stderr = cast("TextIO", _Above(sys.stderr, self))
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()
        sys.stdout, sys.stderr = self._before

    def show(self, record: RunRecord) -> None:
        """Redraw the block, unless somebody has begun a line and not ended it."""
        size = shutil.get_terminal_size()
        lines = frame(record, self._speed, self._title, size.columns, ascii_only=self._ascii_only)[
            : max(1, size.lines - 1)
        ]
        with self._lock:
            if not self._mid_line:
                self._put(self._erase() + "".join(f"{line}\n" for line in lines))
                self._drawn = len(lines)

    def clear(self) -> None:
        """Erase the block."""
        with self._lock:
            if self._drawn:
                self._put(self._erase())
                self._drawn = 0

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write somebody's text where the block is; the next snapshot is drawn below it."""
        with self._lock:
            self.clear()
            written = stream.write(text)
            stream.flush()
            if text:
                self._mid_line = not text.endswith("\n")
            return written

    def _erase(self) -> str:
        return f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # the terminal is gone; the run goes on


class _Above:
    """A stream whose text goes above the block; everything else is the stream's own."""

    def __init__(self, stream: TextIO, block: Block) -> None:
        self._stream = stream
        self._block = block

    def write(self, text: str) -> int:
        return self._block.write_above(self._stream, text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
