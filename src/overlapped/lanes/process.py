"""Calls in processes of the stage's own: plain ones, one at a time in each; coroutines, many at once in each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from overlapped._engine.links import ProcessLink, refuse_where_there_are_none, usable_cpus
from overlapped._engine.parcels import BY_NAME

if TYPE_CHECKING:
    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.links import Link, OnFrame, OnGone
    from overlapped._engine.serving import Task

KINDS: Final = frozenset({"plain", "generator", "coroutine", "async_generator"})
"""Kinds of functions that this lane takes."""

PACKING: Final = BY_NAME
"""Hosts are on this machine, where they import what the run imported."""


def refuse_here(at: str) -> None:
    """Refuse where no processes can be started.

    Raises:
        UsageError: on Windows.
    """
    refuse_where_there_are_none(at, "process")


def launch(on_frame: OnFrame, on_gone: OnGone) -> Link:
    """Start a host."""
    return ProcessLink(asyncio.get_running_loop(), "process", "", on_frame, on_gone)


def most_hosts() -> int:
    """As many as there are CPUs: more would only take turns."""
    return usable_cpus()


def can_cancel(kind: str) -> bool:  # noqa: ARG001 - every lane is asked
    """True: a plain call is interrupted, or loses its process."""
    return True


async def begin() -> None:
    """Nothing: a process needs no other."""


def is_single(kind: str) -> bool:
    """True if a host makes one call at a time."""
    return kind in ("plain", "generator")


def serve(wire: BlockingWire, task: Task) -> None:
    """In the host: make the calls."""
    if is_single(task.described.kind):
        from overlapped._engine.single import OneByOne

        OneByOne(wire, task, "process").serve()
    else:
        from overlapped._engine.together import Together

        Together(wire, task).serve()
