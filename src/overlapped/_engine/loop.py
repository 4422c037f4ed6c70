"""The event loop of runs that bring their own: uvloop where it is installed, asyncio's otherwise."""

from __future__ import annotations

import asyncio
import sys
import weakref

_OURS: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
# Which loops are ours, so that a blocking call on one of them can be told from one in a notebook's loop.


def new_loop() -> asyncio.AbstractEventLoop:
    """A new loop for one run."""
    loop = _new_uvloop() or asyncio.new_event_loop()
    _OURS.add(loop)
    return loop


def _new_uvloop() -> asyncio.AbstractEventLoop | None:
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def is_ours(loop: asyncio.AbstractEventLoop) -> bool:
    """True if `new_loop` made it."""
    return loop in _OURS
