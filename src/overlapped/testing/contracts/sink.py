"""What every sink must do: items land in order, bad ones are named, nothing stays open."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from overlapped.sinks.base import AppendOnly, Sink, Transactional
from overlapped.testing.contracts.base import demand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlapped.sinks.base import Writer

LONGEST_WRITE_S: Final = 60.0
"""When a sink's check gives its thread up."""


def check_sink(
    make_sink: Callable[[Path], Sink],
    read_back: Callable[[Path], Sequence[object]],
    *,
    items: Sequence[object] = ({"n": 1, "text": "a"}, {"n": 2, "text": "é\n"}, {"n": 3, "text": ""}),
    unwritable: object = object(),
) -> None:
    """Put a sink through everything a run does with it; raises AssertionError when it falls short.

    Args:
        make_sink: makes a sink that writes to a fresh place; it gets a new, empty folder.
        read_back: everything that stands in that place, in order; it gets the same folder.
        items: at least three items that the sink can write, as `read_back` gives them.
        unwritable: an item that it cannot write.

    Example:
        >>> import json
        >>> from overlapped.sinks.jsonl import Jsonl
        >>> check_sink(
        ...     lambda folder: Jsonl(folder / "out"),
        ...     lambda folder: [json.loads(line) for line in (folder / "out").read_bytes().splitlines()],
        ... )
    """
    demand(len(items) >= 3, "check_sink needs at least three items")
    expected = list(items)

    def scenario(use: Callable[[Sink], None], want: list[object], says: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            sink = make_sink(Path(folder))
            _check_description(sink)
            before = _open_files()
            _on_one_thread(lambda: use(sink))
            left = _open_files() - before
            demand(not left, f"{sink.describe()} left open after close: {', '.join(sorted(left))}")
            got = list(read_back(Path(folder))) if want else []
            demand(got == want, f"{sink.describe()}: {says}; wrote {want!r}, read back {got!r}")

    scenario(lambda sink: _write(sink, []), [], "a run without items")
    scenario(lambda sink: _write(sink, [[], expected[:2], [], expected[2:]]), expected, "batches come in order")
    scenario(
        lambda sink: _write(sink, [expected[:2], expected[2:]], ok=False),
        expected,
        "what was written stays when the run fails",
    )
    scenario(lambda sink: _check_refusal(sink, expected, unwritable), expected, "good items stay")
    scenario(lambda sink: _check_shape(sink, expected), expected, "positions and transactions")


def _check_description(sink: Sink) -> None:
    demand(isinstance(sink, Sink), f"{sink!r} has no describe() or no open()")
    text = sink.describe()
    demand(bool(text), f"describe() of {sink!r} says nothing")
    demand("\n" not in text, f"describe() must be one line, got {text!r}")


def _write(sink: Sink, batches: Sequence[Sequence[object]], *, ok: bool = True) -> None:
    writer = sink.open()
    try:
        for batch in batches:
            refused = writer.write(batch)
            demand(refused == {}, f"{sink.describe()} refused good items: {refused!r}")
    finally:
        writer.close(ok)


def _check_refusal(sink: Sink, items: Sequence[object], unwritable: object) -> None:
    """A bad item is named, costs no other item of its batch, and no later batch."""
    writer = sink.open()
    try:
        for batch, bad in (([unwritable], [0]), ([items[0], unwritable, items[1]], [1]), (items[2:], [])):
            refused = writer.write(batch)
            demand(list(refused) == bad, f"{sink.describe()} must refuse exactly {bad} of {batch!r}: {refused!r}")
            for error in refused.values():
                kind = type(unwritable).__name__
                demand(isinstance(error, Exception), f"a refusal must be an Exception, got {error!r}")
                demand(kind in str(error), f"a refusal must name the item's type {kind}: {error}")
    finally:
        writer.close(ok=True)


def _check_shape(sink: Sink, items: Sequence[object]) -> None:
    """What a journal relies on, if the writer offers it."""
    writer = sink.open()
    try:
        _check_rollback(sink, writer, items)
        start = writer.position() if isinstance(writer, AppendOnly) else 0
        writer.write(items)
        if isinstance(writer, AppendOnly):
            end = writer.position()
            demand(end > start, f"position() of {sink.describe()} did not grow: {start} -> {end}")
            demand(writer.position() == end, f"position() of {sink.describe()} changed without a write")
    finally:
        writer.close(ok=True)


def _check_rollback(sink: Sink, writer: Writer, items: Sequence[object]) -> None:
    if not isinstance(writer, Transactional):
        return

    class Stop(Exception):
        pass

    try:
        with writer.transaction():
            writer.write(items)
            raise Stop
    except Stop:
        return
    raise AssertionError(f"transaction() of {sink.describe()} swallows exceptions")


def _on_one_thread(use: Callable[[], None]) -> None:
    """Run everything on one thread that is not the caller's, as a run does."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            use()
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True, name="check_sink")
    thread.start()
    thread.join(LONGEST_WRITE_S)
    demand(not thread.is_alive(), f"the sink did not end within {LONGEST_WRITE_S:g} s")
    if errors:
        raise errors[0]


def _open_files() -> set[str]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return {name for name in os.listdir(folder) if os.path.exists(f"{folder}/{name}")}
    return set()
