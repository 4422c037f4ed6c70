"""Which lane a function belongs in, as far as it can be told before the first call."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, cast

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from overlapped._engine.callables import Described
    from overlapped._engine.host import HostLane

HOSTED: Final = ("process", "greenlet", "ray")
"""Lanes whose calls run in other processes."""

LANES: Final = ("coroutine", "inline", "thread", *HOSTED)

AWAITED: Final = "its calls are awaited on the event loop"
MAY_BLOCK: Final = "a plain function may block, so it does not run on the loop"


def choose(on: object, described: Described, timeout_s: float | None) -> tuple[str, str]:
    """Lane and reason for a function, as far as they can be told before the first call."""
    name = described.name
    if isinstance(on, str):
        return on, f'on="{on}"'
    if described.kind in ("coroutine", "tornado", "async_generator"):
        return "coroutine", f"{name} is async: {AWAITED}"
    if timeout_s is not None:
        return "thread", f"{name} is a plain function with a time-out, so it stays in threads"
    return "thread", f"{name} is a plain function: {MAY_BLOCK}"


def hosted(lane: str) -> HostLane:
    """The room of a lane whose calls run in other processes."""
    return cast("HostLane", importlib.import_module(f"overlapped.lanes.{lane}"))


def check_lane_fits(on: str, described: Described, verb: str) -> None:
    """Refuse a lane that cannot run this kind of function.

    Raises:
        UsageError: with the line to write instead.
    """
    name, kind = described.name, described.kind
    is_async = kind in ("coroutine", "tornado", "async_generator")
    if on not in LANES:
        raise UsageError(f"{verb}({name}, on={on!r}): on must be AUTO, {', '.join(map(repr, LANES))}, got {on!r}")
    if on in HOSTED:
        room = hosted(on)
        room.refuse_here(f"{verb}({name})")
        if kind in room.KINDS:
            return
    if is_async and on != "coroutine":
        raise UsageError(f"{verb}({name}, on={on!r}): {name} is async and runs on the loop; write .{verb}({name})")
    if on == "coroutine" and kind == "generator":
        raise UsageError(f'{verb}({name}, on="coroutine"): {name} is a generator function; write .{verb}({name})')
