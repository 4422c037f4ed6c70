"""`kill -USR1 PID`: what a run is doing, on stderr, without stopping it: its account, and where every task waits."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from overlapped.cli.say import write_stderr
from overlapped.report import Report
from overlapped.report.plain import cut, escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.record import RunRecord

MOST_TASKS: Final = 40
"""Kinds of waiting tasks that are told: thousands wait at the same few lines."""

MOST_STEPS: Final = 6
"""Innermost lines that are told of each."""

_LIBRARY: Final = os.path.dirname(os.path.abspath(asyncio.__file__))


class Watched(Protocol):
    """What is asked for its account."""

    def stats(self) -> RunRecord:
        """The account so far."""
        ...


@contextmanager
def status_on_signal(items: Watched) -> Iterator[None]:
    """While it lasts, SIGUSR1 writes the status; nothing on Windows, or outside of the main thread."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    # On the loop, not in the handler: a handler that prints can interrupt a print.
    before = signal.signal(number, lambda *_: loop.call_soon_threadsafe(_write, items))
    try:
        yield
    finally:
        signal.signal(number, before)


def _write(items: Watched) -> None:
    write_stderr(f"{Report(items.stats())}\n{waiting()}\n")


def waiting() -> str:
    """Where the tasks of the running loop wait, those at the same place together, the most first."""
    places: dict[str, int] = {}
    for task in asyncio.all_tasks():
        place = _place(task)
        places[place] = places.get(place, 0) + 1
    ordered = sorted(places.items(), key=lambda entry: -entry[1])
    lines = [f"waiting  {count:,} x {place}" for place, count in ordered[:MOST_TASKS]]
    if len(ordered) > MOST_TASKS:
        lines.append(f"waiting  at {len(ordered) - MOST_TASKS} more places")
    return "\n".join(lines)


def _place(task: asyncio.Task[Any]) -> str:
    """The task's name, and the lines it waits at, the outermost first; asyncio's own are left out."""
    coroutine: Any = task.get_coro()
    steps: list[str] = []
    while coroutine is not None and len(steps) < 100:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        path = frame.f_code.co_filename
        if not path.startswith(_LIBRARY):
            steps.append(f"{os.path.basename(path)}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    name = cut(escape(task.get_name().removeprefix("overlapped:")), 60)
    return name + (f" at {escape(' > '.join(steps[-MOST_STEPS:]))}" if steps else "")
